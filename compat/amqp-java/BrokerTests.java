import com.rabbitmq.client.*;
import java.io.File;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

/** What a broker's operator decides and what happens to it. As amqplib's tests do. */
final class BrokerTests extends ClientTests {
    /** The program, for tests that fill its disk or kill it. */
    private static final String PROGRAM = System.getenv("FERRYMQ");
    private static final String HASH = "x-consistent-hash";

    static void add(Map<String, Body> tests) {
        tests.put("hash-exchanges-spread-by-key", BrokerTests::hashByKey);
        tests.put("hash-exchanges-spread-by-header", BrokerTests::hashByHeader);
        tests.put("operator-policies-bound-what-users-ask-for", BrokerTests::operatorPolicies);
        tests.put("a-quorum-queue-knows-no-global-prefetch", BrokerTests::quorumGlobalPrefetch);
        tests.put("what-was-confirmed-survives-a-kill", BrokerTests::killed);
        tests.put("publishers-are-held-back-while-the-disk-is-full", BrokerTests::fullDisk);
    }

    // Exchanges that hash

    private static void needsPlugin() {
        if (OLD_RABBITMQ) {
            throw new Skip("a plugin of RabbitMQ's that is not enabled");
        }
    }

    private static void hashByKey() throws Exception {
        needsPlugin();
        Channel channel = confirming();
        String hashed = exchange(channel, HASH);
        List<String> queues = List.of(queue(channel), queue(channel), queue(channel));
        for (String key : queues) {
            channel.queueBind(key, hashed, key.equals(queues.get(2)) ? "2" : "1");
        }
        for (int n = 0; n < 800; n++) {
            channel.basicPublish(hashed, "key-" + n % 400, null, bytes("key-" + n % 400));
        }
        channel.waitForConfirmsOrDie(SECONDS * 1000);
        Map<String, Integer> times = new TreeMap<>();
        for (String key : queues) {
            List<String> bodies = take(channel, key);
            // The third queue weighs as much as the others together.
            int[] bounds = key.equals(queues.get(2)) ? new int[] {260, 540} : new int[] {80, 330};
            check(bodies.size() > bounds[0] && bodies.size() < bounds[1], key + ": " + bodies.size());
            for (String body : new HashSet<>(bodies)) {
                check(times.put(body, Collections.frequency(bodies, body)) == null, body + " went two ways");
            }
        }
        check(times.size() == 400 && times.values().stream().allMatch(count -> count == 2), times);
    }

    private static void hashByHeader() throws Exception {
        needsPlugin();
        Channel channel = confirming();
        String hashed = exchange(channel, HASH, false, false, Map.of("hash-header", "who"));
        List<String> queues = List.of(queue(channel), queue(channel));
        for (String key : queues) {
            channel.queueBind(key, hashed, "1");
        }
        for (int n = 0; n < 60; n++) {
            String who = "user-" + n % 20;
            var properties = new AMQP.BasicProperties.Builder().headers(Map.of("who", who)).build();
            channel.basicPublish(hashed, "key-" + n, properties, bytes(who));
        }
        channel.waitForConfirmsOrDie(SECONDS * 1000);
        List<String> first = take(channel, queues.get(0));
        List<String> second = take(channel, queues.get(1));
        check(!first.isEmpty() && !second.isEmpty() && first.size() + second.size() == 60, first.size() + " and " + second.size());
        check(Collections.disjoint(first, second), "one of them went two ways");
        closes(channel.getConnection(), 406, "PRECONDITION_FAILED", on -> on.queueBind(queues.get(0), hashed, "heavy"));
    }

    // Operators

    private static void operatorPolicies() throws Exception {
        FeatureTests.needsApi();
        Channel channel = confirming();
        String key = channel.queueDeclare(name("q"), false, true, false, Map.of("x-max-length", 5)).getQueue();
        String policy = "{\"pattern\":\"^" + key + "$\",\"apply-to\":\"queues\",\"priority\":1,\"definition\":{%s}}";
        LEFT.add(cleaner -> FeatureTests.manageQuietly("DELETE", "policies/%2F/" + key));
        LEFT.add(cleaner -> FeatureTests.manageQuietly("DELETE", "operator-policies/%2F/" + key));
        String[] nine = IntStream.range(0, 9).mapToObj(Integer::toString).toArray(String[]::new);
        send(channel, key, nine);
        equal(channel.messageCount(key), 5L);
        // The lower of two limits holds, whoever set it.
        FeatureTests.manage("PUT", "operator-policies/%2F/" + key, String.format(policy, "\"max-length\":3"));
        until("the operator's", () -> channel.messageCount(key) == 3);
        FeatureTests.manage("PUT", "policies/%2F/" + key, String.format(policy, "\"max-length\":4,\"message-ttl\":3600000"));
        send(channel, key, "9");
        quiet();
        equal(channel.messageCount(key), 3L);
        FeatureTests.manage("DELETE", "operator-policies/%2F/" + key, "");
        until("the others again", () -> {
            send(channel, key, "more");
            return channel.messageCount(key) >= 4;
        });
        send(channel, key, nine);
        check(channel.messageCount(key) <= 5, channel.messageCount(key));
    }

    private static void quorumGlobalPrefetch() throws Exception {
        Channel channel = confirming();
        String key = channel.queueDeclare(name("d"), true, false, false, Map.of("x-queue-type", "quorum")).getQueue();
        LEFT.add(cleaner -> cleaner.queueDelete(key));
        Channel other = connect(factory()).createChannel();
        CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
        other.getConnection().addShutdownListener(closed::complete);
        other.basicQos(1, true);
        try {
            consumer(other, key, false);
        } catch (java.io.IOException told) {
            // The connection's end says it as well.
        }
        AMQP.Connection.Close close = (AMQP.Connection.Close) closed.get(SECONDS, TimeUnit.SECONDS).getReason();
        String words = "NOT_IMPLEMENTED - queue '" + key + "' in vhost '/' does not support global qos";
        check(close.getReplyCode() == 540 && close.getReplyText().equals(words), close);
    }

    // A broker of their own

    private static int free() throws Exception {
        try (ServerSocket socket = new ServerSocket(0)) {
            return socket.getLocalPort();
        }
    }

    private static final class Running implements AutoCloseable {
        private final Process process;
        private final Connection connection;
        private final int port;

        Running(Path home, int port, String... more) throws Exception {
            this.port = port;
            List<String> words = new ArrayList<>(List.of(PROGRAM, "serve", "--data-dir", home + "/data", "--kafka-listen", "127.0.0.1:0",
                "--http-listen", "off", "--amqp-listen", "127.0.0.1:" + port));
            words.addAll(List.of(more));
            process = new ProcessBuilder(words).redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .redirectError(ProcessBuilder.Redirect.DISCARD).start();
            AtomicReference<Connection> made = new AtomicReference<>();
            until("it listens", () -> {
                try {
                    made.set(connect());
                } catch (java.io.IOException notYet) {
                    check(process.isAlive(), "the broker ended");
                }
                return made.get() != null;
            });
            connection = made.get();
        }

        final Connection connect() throws Exception {
            ConnectionFactory factory = factory();
            factory.setHost("127.0.0.1");
            factory.setPort(port);
            return ClientTests.connect(factory);
        }

        void kill() throws Exception {
            process.destroyForcibly().waitFor();
        }

        @Override
        public void close() throws Exception {
            kill();
        }
    }

    private static void needsProgram() {
        if (PROGRAM == null) {
            throw new Skip("set FERRYMQ to the program to be killed and started again");
        }
    }

    private static void remove(Path home) throws Exception {
        try (Stream<Path> all = Files.walk(home)) {
            all.sorted(Comparator.reverseOrder()).map(Path::toFile).forEach(File::delete);
        }
    }

    /** Publishes until the broker is gone; what was confirmed. */
    private static Set<String> untilKilled(Running broker, String key, Map<String, Object> arguments, CountDownLatch enough) throws Exception {
        Set<String> confirmed = ConcurrentHashMap.newKeySet();
        Channel channel = broker.connection.createChannel();
        channel.queueDeclare(key, true, false, false, arguments);
        channel.confirmSelect();
        ConcurrentNavigableMap<Long, String> waiting = new ConcurrentSkipListMap<>();
        channel.addConfirmListener((tag, multiple) -> {
            var done = multiple ? waiting.headMap(tag, true) : waiting.subMap(tag, true, tag, true);
            confirmed.addAll(done.values());
            done.clear();
            if (confirmed.size() > 500) {
                enough.countDown();
            }
        }, (tag, multiple) -> { });
        Thread thread = new Thread(() -> {
            try {
                for (int n = 0; ; n++) {
                    waiting.put(channel.getNextPublishSeqNo(), "" + n);
                    channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, bytes("" + n));
                    while (waiting.size() > 500 && channel.isOpen()) {
                        Thread.onSpinWait();
                    }
                }
            } catch (Exception killed) {
                enough.countDown();
            }
        });
        thread.setDaemon(true);
        thread.start();
        return confirmed;
    }

    private static void killed() throws Exception {
        needsProgram();
        Path home = Files.createTempDirectory("amqp-java");
        int port = free();
        Map<String, Set<String>> confirmed = new HashMap<>();
        try {
            try (Running broker = new Running(home, port)) {
                CountDownLatch enough = new CountDownLatch(2);
                for (String type : List.of("classic", "quorum")) {
                    confirmed.put(type, untilKilled(broker, type, Map.of("x-queue-type", type), enough));
                }
                check(enough.await(SECONDS, TimeUnit.SECONDS), "hardly anything is confirmed");
                broker.kill();
                until("the client knows", () -> !broker.connection.isOpen());
            }
            try (Running broker = new Running(home, port)) {
                for (String key : confirmed.keySet()) {
                    List<Integer> found = take(broker.connection.createChannel(), key).stream().map(Integer::valueOf).toList();
                    equal(found, found.stream().sorted().distinct().toList());
                    Set<String> missing = new HashSet<>(confirmed.get(key));
                    missing.removeAll(found.stream().map(Object::toString).toList());
                    check(confirmed.get(key).size() > 500 && missing.isEmpty(), "confirmed and gone: " + missing);
                }
            }
        } finally {
            remove(home);
        }
    }

    private static void fullDisk() throws Exception {
        needsProgram();
        Path home = Files.createTempDirectory("amqp-java");
        String[] mount = {"mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", home.toString()};
        if (new ProcessBuilder(mount).start().waitFor() != 0) {
            remove(home);
            throw new Skip("a small disk takes root");
        }
        String[] small = {"--wal-file-bytes", "" + (4 << 20), "--disk-reserve-bytes", "" + (8 << 20)};
        try (Running broker = new Running(home, free(), small)) {
            BlockingQueue<String> told = new LinkedBlockingQueue<>();
            broker.connection.addBlockedListener(told::add, () -> told.add("unblocked"));
            Channel channel = broker.connection.createChannel();
            String key = channel.queueDeclare("q", true, false, false, null).getQueue();
            byte[] body = new byte[1 << 18];
            until("it is full", () -> {
                channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, body);
                return !told.isEmpty();
            });
            equal(told.poll(), "low on disk");
            // Who only consumes goes on, and what it takes makes room.
            Channel taking = broker.connect().createChannel();
            until("room again", () -> {
                GetResponse got = taking.basicGet(key, false);
                if (got != null) {
                    taking.basicAck(got.getEnvelope().getDeliveryTag(), false);
                }
                return !told.isEmpty();
            });
            equal(told.poll(), "unblocked");
            channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, bytes("last"));
            until("the last", () -> "last".equals(text(taking.basicGet(key, true))));
        } finally {
            new ProcessBuilder("umount", home.toString()).start().waitFor();
            remove(home);
        }
    }
}
