import com.rabbitmq.client.*;
import com.rabbitmq.client.impl.LongStringHelper;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** The RabbitMQ Java client against a broker. Prints one line for each test. */
public class ClientTests {
    static final String[] BOOTSTRAP = System.getenv("BOOTSTRAP").split(":");
    static final String RUN = System.getenv("RUN");
    /** RabbitMQ before 4.3, which the tests were written against, has other codes here and there. */
    static final boolean OLD_RABBITMQ = "rabbitmq".equals(System.getenv("COMPAT_PEER"));
    static final int SECONDS = 20;
    /** Whatever a test opens is closed behind it, also when it fails; what it leaves behind is deleted. */
    static final List<Connection> OPEN = new ArrayList<>();
    static final List<Action> LEFT = new ArrayList<>();
    private static int names;

    interface Body {
        void run() throws Exception;
    }

    /** Thrown by a test that does not apply. */
    static final class Skip extends RuntimeException {
        Skip(String why) {
            super(why);
        }
    }

    interface Action {
        void on(Channel channel) throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    public static void main(String[] only) {
        Map<String, Body> tests = new LinkedHashMap<>();
        tests.put("connects-and-is-told-what-the-server-can", ClientTests::connects);
        tests.put("limits-are-negotiated", ClientTests::limits);
        tests.put("wrong-passwords-are-refused", ClientTests::wrongPasswords);
        tests.put("unknown-virtual-hosts-are-told", ClientTests::unknownVirtualHosts);
        tests.put("heartbeats-keep-an-idle-connection", ClientTests::heartbeats);
        tests.put("channels-by-the-hundred", ClientTests::manyChannels);
        tests.put("published-messages-are-got", ClientTests::publishGet);
        tests.put("publishes-are-confirmed", ClientTests::confirms);
        tests.put("confirms-come-once-each", ClientTests::confirmsOnceEach);
        tests.put("unroutable-mandatory-messages-come-back-before-their-confirm", ClientTests::returns);
        tests.put("empty-and-large-bodies-survive", ClientTests::bodies);
        tests.put("headers-of-every-type-come-back", ClientTests::headers);
        tests.put("all-properties-come-back", ClientTests::properties);
        tests.put("copies-go-to-cc-and-bcc", ClientTests::copies);
        tests.put("consumed-messages-are-acknowledged", ClientTests::consume);
        tests.put("requeued-messages-return-to-their-place", ClientTests::requeue);
        tests.put("rejected-messages-are-dropped", ClientTests::reject);
        tests.put("recover-returns-everything", ClientTests::recover);
        tests.put("prefetch-bounds-each-consumer", ClientTests::prefetch);
        tests.put("global-prefetch-bounds-the-channel", ClientTests::globalPrefetch);
        tests.put("consumers-take-turns", ClientTests::turns);
        tests.put("closed-channels-and-connections-give-back", ClientTests::giveBack);
        tests.put("cancelled-consumers-get-no-more", ClientTests::cancel);
        tests.put("consumers-are-told-when-their-queue-is-deleted", ClientTests::cancelNotification);
        tests.put("an-exclusive-consumer-is-alone", ClientTests::exclusiveConsumer);
        tests.put("server-named-queues", ClientTests::serverNamed);
        tests.put("exclusive-queues-are-of-one-connection", ClientTests::exclusiveQueue);
        tests.put("auto-delete-queues-and-exchanges", ClientTests::autoDelete);
        tests.put("counts-are-told", ClientTests::counts);
        tests.put("queue-declarations-must-agree", ClientTests::queueEquivalence);
        tests.put("exchange-declarations-must-agree", ClientTests::exchangeEquivalence);
        tests.put("missing-things-are-told", ClientTests::missing);
        tests.put("reserved-names-are-refused", ClientTests::reserved);
        tests.put("unknown-delivery-tags-close-the-channel", ClientTests::unknownTags);
        tests.put("exchanges-route", ClientTests::routing);
        tests.put("headers-exchanges-route", ClientTests::headersExchange);
        tests.put("exchanges-are-bound-to-exchanges", ClientTests::exchangeToExchange);
        tests.put("alternate-exchanges-get-the-rest", ClientTests::alternate);
        tests.put("internal-exchanges-take-no-messages", ClientTests::internal);
        tests.put("what-has-no-answer-is-done", ClientTests::noWait);
        tests.put("threads-share-a-connection", ClientTests::threads);
        tests.put("requests-are-answered", ClientTests::rpc);
        tests.put("connection-and-topology-recover", ClientTests::recovery);
        FeatureTests.add(tests);
        BrokerTests.add(tests);
        for (Map.Entry<String, Body> test : tests.entrySet()) {
            if (only.length == 0 || Arrays.asList(only).contains(test.getKey())) {
                run(test.getKey(), test.getValue());
            }
        }
        System.out.println("done");
        System.exit(0);
    }

    private static void run(String title, Body body) {
        try {
            FutureTask<Void> task = new FutureTask<>(() -> {
                body.run();
                return null;
            });
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            thread.start();
            task.get(60, TimeUnit.SECONDS);
            System.out.println("ok " + title);
        } catch (Throwable thrown) {
            Throwable error = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
            String line = Arrays.stream(error.getStackTrace()).filter(frame -> frame.getClassName().matches("(Client|Feature|Broker)Tests.*"))
                .map(frame -> " line " + frame.getLineNumber()).findFirst().orElse("");
            String cause = error.getCause() == null ? "" : " because " + error.getCause();
            if (error instanceof Skip) {
                System.out.println("skip " + title + ": " + error.getMessage());
                return;
            }
            System.out.println("not ok " + title + ":" + line + " " + (error + cause).replaceAll("\\s+", " "));
        } finally {
            tidy();
        }
    }

    private static void tidy() {
        for (Connection connection : OPEN) {
            connection.abort(2000);
        }
        OPEN.clear();
        if (!LEFT.isEmpty()) {
            try (Connection connection = factory().newConnection()) {
                for (Action remove : LEFT) {
                    remove.on(connection.createChannel());
                }
            } catch (Exception gone) {
                System.err.println("cannot tidy: " + gone);
            }
        }
        LEFT.clear();
    }

    // Helpers

    static ConnectionFactory factory() {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost(BOOTSTRAP[0]);
        factory.setPort(Integer.parseInt(BOOTSTRAP[1]));
        factory.setAutomaticRecoveryEnabled(false);
        return factory;
    }

    static Connection connect(ConnectionFactory factory) throws Exception {
        Connection connection = factory.newConnection();
        OPEN.add(connection);
        return connection;
    }

    static Channel channel() throws Exception {
        return connect(factory()).createChannel();
    }

    static Channel confirming() throws Exception {
        Channel channel = channel();
        channel.confirmSelect();
        return channel;
    }

    static String name(String stem) {
        names++;
        return RUN + "-j" + stem + "-" + names;
    }

    static void check(boolean condition, Object what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object found, Object expected) {
        check(Objects.equals(found, expected), "found " + found + ", expected " + expected);
    }

    static void until(String what, Condition condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS);
        while (!condition.holds()) {
            check(System.nanoTime() < end, "not within " + SECONDS + " s: " + what);
            Thread.sleep(20);
        }
    }

    /** Lets whatever is on its way arrive. */
    static void quiet() throws Exception {
        Thread.sleep(300);
    }

    /** A queue of this connection's own. */
    static String queue(Channel channel) throws Exception {
        return channel.queueDeclare(name("q"), false, true, false, null).getQueue();
    }

    /** A queue that others may use. */
    static String shared(Channel channel, boolean durable) throws Exception {
        String made = channel.queueDeclare(name("s"), durable, false, false, null).getQueue();
        LEFT.add(cleaner -> cleaner.queueDelete(made));
        return made;
    }

    static String exchange(Channel channel, String type) throws Exception {
        return exchange(channel, type, false, false, null);
    }

    static String exchange(Channel channel, String type, boolean autoDelete, boolean internal, Map<String, Object> arguments)
        throws Exception {
        String made = name("x");
        channel.exchangeDeclare(made, type, false, autoDelete, internal, arguments);
        LEFT.add(cleaner -> cleaner.exchangeDelete(made));
        return made;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void send(Channel channel, String key, String... bodies) throws Exception {
        for (String body : bodies) {
            channel.basicPublish("", key, null, bytes(body));
        }
        if (channel.getNextPublishSeqNo() > 0) {
            channel.waitForConfirmsOrDie(SECONDS * 1000);
        }
    }

    static String text(GetResponse got) {
        return got == null ? null : new String(got.getBody(), StandardCharsets.UTF_8);
    }

    /** All messages, acknowledged. */
    static List<String> take(Channel channel, String key) throws Exception {
        List<String> found = new ArrayList<>();
        for (GetResponse got; (got = channel.basicGet(key, false)) != null; ) {
            channel.basicAck(got.getEnvelope().getDeliveryTag(), false);
            found.add(text(got));
        }
        return found;
    }

    /** Consumes into a list. */
    static final class Found extends CopyOnWriteArrayList<Delivery> {
        String tag;
        final AtomicInteger cancelled = new AtomicInteger();

        List<String> texts() {
            List<String> texts = new ArrayList<>();
            forEach(delivery -> texts.add(new String(delivery.getBody(), StandardCharsets.UTF_8)));
            return texts;
        }

        long tagOf(int place) {
            return get(place).getEnvelope().getDeliveryTag();
        }
    }

    static Found consumer(Channel channel, String key, boolean autoAck) throws Exception {
        Found found = new Found();
        found.tag = channel.basicConsume(key, autoAck, (tag, delivery) -> found.add(delivery), tag -> found.cancelled.incrementAndGet());
        return found;
    }

    /** A fresh channel of the connection is closed with this code and these words; the connection goes on. */
    static void closes(Connection connection, int code, String words, Action action) throws Exception {
        Channel channel = connection.createChannel();
        CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
        channel.addShutdownListener(closed::complete);
        try {
            action.on(channel);
        } catch (IOException | AlreadyClosedException told) {
            // The channel's end says it as well.
        }
        ShutdownSignalException signal;
        try {
            signal = closed.get(SECONDS, TimeUnit.SECONDS);
        } catch (TimeoutException late) {
            throw new AssertionError("nothing was closed, expected " + code + " " + words);
        }
        check(!signal.isHardError() && signal.getReason() instanceof AMQP.Channel.Close, signal);
        AMQP.Channel.Close close = (AMQP.Channel.Close) signal.getReason();
        check(close.getReplyCode() == code && close.getReplyText().contains(words), close);
        connection.createChannel().close();
    }

    // Connections

    private static void connects() throws Exception {
        Map<String, Object> server = connect(factory()).getServerProperties();
        Map<?, ?> capabilities = (Map<?, ?>) server.get("capabilities");
        for (String needed : List.of("publisher_confirms", "basic.nack", "consumer_cancel_notify", "exchange_exchange_bindings")) {
            equal(capabilities.get(needed), true);
        }
        equal(server.get("product").toString(), "RabbitMQ");
        check(server.get("version").toString().matches("\\d+\\.\\d+\\.\\d+"), server);
    }

    private static void limits() throws Exception {
        Connection connection = connect(factory());
        equal(List.of(connection.getChannelMax(), connection.getFrameMax(), connection.getHeartbeat()), List.of(2047, 131072, 60));
        ConnectionFactory factory = factory();
        factory.setRequestedChannelMax(3);
        factory.setRequestedFrameMax(8192);
        factory.setRequestedHeartbeat(7);
        Connection small = connect(factory);
        equal(List.of(small.getChannelMax(), small.getFrameMax(), small.getHeartbeat()), List.of(3, 8192, 7));
        Channel channel = small.createChannel();
        String key = queue(channel);
        byte[] body = new byte[100_000];
        new Random(1).nextBytes(body);
        channel.basicPublish("", key, null, body);
        check(Arrays.equals(channel.basicGet(key, true).getBody(), body), "another body");
    }

    private static void wrongPasswords() throws Exception {
        ConnectionFactory factory = factory();
        factory.setPassword("guess");
        try {
            connect(factory);
        } catch (AuthenticationFailureException refused) {
            check(refused.getMessage().contains("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"), refused);
            return;
        }
        throw new AssertionError("let in");
    }

    private static void unknownVirtualHosts() throws Exception {
        ConnectionFactory factory = factory();
        factory.setVirtualHost("nowhere");
        try {
            connect(factory);
        } catch (IOException refused) {
            AMQP.Connection.Close close = (AMQP.Connection.Close) ((ShutdownSignalException) refused.getCause()).getReason();
            equal(close.getReplyCode(), 530);
            check(close.getReplyText().contains("NOT_ALLOWED - vhost nowhere not found"), close);
            return;
        }
        throw new AssertionError("let in");
    }

    private static void heartbeats() throws Exception {
        ConnectionFactory factory = factory();
        factory.setRequestedHeartbeat(1);
        Connection connection = connect(factory);
        Thread.sleep(4000);
        check(connection.isOpen(), "closed");
        connection.createChannel().close();
    }

    private static void manyChannels() throws Exception {
        Connection connection = connect(factory());
        List<Channel> channels = new ArrayList<>();
        for (int n = 0; n < 300; n++) {
            channels.add(connection.createChannel());
        }
        for (Channel channel : channels) {
            channel.queueDeclare();
            channel.close();
        }
        connection.createChannel().close();
    }

    // Publishing

    private static void publishGet() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "one", "two");
        GetResponse got = channel.basicGet(key, true);
        equal(List.of(text(got), got.getMessageCount(), got.getEnvelope().getExchange(), got.getEnvelope().getRoutingKey(),
            got.getEnvelope().isRedeliver(), got.getEnvelope().getDeliveryTag()), List.of("one", 1, "", key, false, 1L));
        equal(take(channel, key), List.of("two"));
        equal(channel.basicGet(key, true), null);
    }

    private static void confirms() throws Exception {
        Channel channel = confirming();
        String key = shared(channel, true);
        for (int n = 0; n < 2000; n++) {
            channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, bytes("" + n));
        }
        check(channel.waitForConfirms(SECONDS * 1000), "some were refused");
        equal(channel.messageCount(key), 2000L);
        channel.basicPublish("", name("nowhere"), null, bytes("dropped"));
        check(channel.waitForConfirms(SECONDS * 1000), "refused");
        equal(channel.queueDelete(key).getMessageCount(), 2000);
    }

    private static void confirmsOnceEach() throws Exception {
        Channel channel = confirming();
        String key = shared(channel, true);
        SortedSet<Long> waiting = Collections.synchronizedSortedSet(new TreeSet<>());
        AtomicReference<String> wrong = new AtomicReference<>();
        for (long n = 1; n <= 5000; n++) {
            waiting.add(n);
        }
        channel.addConfirmListener((tag, multiple) -> {
            if (!waiting.contains(tag)) {
                wrong.set("confirmed twice: " + tag);
            } else if (multiple) {
                waiting.headSet(tag + 1).clear();
            } else {
                waiting.remove(tag);
            }
        }, (tag, multiple) -> wrong.set("refused: " + tag));
        for (int n = 0; n < 5000; n++) {
            channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, bytes("" + n));
        }
        until("all confirms", waiting::isEmpty);
        equal(wrong.get(), null);
    }

    private static void returns() throws Exception {
        Channel channel = confirming();
        List<Object> happened = new CopyOnWriteArrayList<>();
        channel.addReturnListener(happened::add);
        channel.addConfirmListener((tag, multiple) -> happened.add("confirmed"), (tag, multiple) -> happened.add("refused"));
        byte[] body = new byte[200_000];
        new Random(2).nextBytes(body);
        String key = name("nowhere");
        AMQP.BasicProperties sent = new AMQP.BasicProperties.Builder().messageId("m").headers(Map.of("a", 1)).build();
        channel.basicPublish("", key, true, sent, body);
        until("both", () -> happened.size() == 2);
        equal(happened.get(1), "confirmed");
        Return back = (Return) happened.get(0);
        equal(List.of(back.getReplyCode(), back.getReplyText(), back.getExchange(), back.getRoutingKey()), List.of(312, "NO_ROUTE", "", key));
        equal(back.getProperties(), sent);
        check(Arrays.equals(back.getBody(), body), "another body");
    }

    private static void bodies() throws Exception {
        Channel channel = confirming();
        String key = queue(channel);
        for (int size : new int[] {0, 1, 131_064, 131_065, 1_000_000, 15_000_000}) {
            byte[] body = new byte[size];
            new Random(size).nextBytes(body);
            channel.basicPublish("", key, null, body);
            channel.waitForConfirmsOrDie(SECONDS * 1000);
            check(Arrays.equals(channel.basicGet(key, true).getBody(), body), size);
        }
    }

    private static void headers() throws Exception {
        Map<String, Object> headers = new LinkedHashMap<>();
        headers.put("text", LongStringHelper.asLongString("grüße ☃"));
        headers.put("long", LongStringHelper.asLongString("x".repeat(5000)));
        headers.put("empty", LongStringHelper.asLongString(""));
        headers.put("yes", true);
        headers.put("no", false);
        headers.put("byte", (byte) -5);
        headers.put("short", (short) -300);
        headers.put("int", -70_000);
        headers.put("long int", Long.MIN_VALUE);
        headers.put("float", 0.5f);
        headers.put("double", 3.14159);
        headers.put("decimal", new BigDecimal("3.14"));
        headers.put("time", new Date(1_709_208_000_000L));
        headers.put("nothing", null);
        headers.put("list", Arrays.asList(1, LongStringHelper.asLongString("two"), List.of(3L), Map.of("four", 5), null));
        headers.put("table", Map.of("nested", Map.of("deeper", LongStringHelper.asLongString("value")), "none", Map.of()));
        headers.put("ключ", LongStringHelper.asLongString("key"));
        Channel channel = channel();
        String key = queue(channel);
        Map<String, Object> withBytes = new LinkedHashMap<>(headers);
        withBytes.put("bytes", new byte[] {0, -1, -2});
        channel.basicPublish("", key, new AMQP.BasicProperties.Builder().headers(withBytes).build(), bytes(""));
        Map<String, Object> found = new HashMap<>(channel.basicGet(key, true).getProps().getHeaders());
        check(Arrays.equals((byte[]) found.remove("bytes"), new byte[] {0, -1, -2}), "other bytes");
        equal(found, headers);
    }

    private static void properties() throws Exception {
        AMQP.BasicProperties sent = new AMQP.BasicProperties.Builder().contentType("text/plain").contentEncoding("utf-8")
            .headers(Map.of()).deliveryMode(2).priority(5).correlationId("c".repeat(255)).replyTo("r").messageId("m")
            .timestamp(new Date(1_700_000_000_000L)).type("t").userId("guest").appId("a").clusterId("k").build();
        Channel channel = channel();
        String key = queue(channel);
        channel.basicPublish("", key, sent, bytes(""));
        equal(channel.basicGet(key, true).getProps(), sent);
        channel.basicPublish("", key, new AMQP.BasicProperties(), bytes(""));
        equal(channel.basicGet(key, true).getProps(), new AMQP.BasicProperties());
        AMQP.BasicProperties foreign = new AMQP.BasicProperties.Builder().userId("somebody").build();
        String words = "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'guest'";
        closes(channel.getConnection(), 406, words, on -> on.basicPublish("", key, foreign, bytes("")));
    }

    private static void copies() throws Exception {
        Channel channel = channel();
        List<String> keys = List.of(queue(channel), queue(channel), queue(channel));
        Map<String, Object> headers = Map.of("CC", List.of(keys.get(1)), "BCC", List.of(keys.get(2), keys.get(0)), "x", 1);
        channel.basicPublish("", keys.get(0), new AMQP.BasicProperties.Builder().headers(headers).build(), bytes("body"));
        for (String key : keys) {
            GetResponse got = channel.basicGet(key, true);
            equal(text(got), "body");
            equal(got.getProps().getHeaders(), Map.of("CC", List.of(LongStringHelper.asLongString(keys.get(1))), "x", 1));
            equal(channel.basicGet(key, true), null);
        }
    }

    // Consuming

    private static void consume() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        List<String> sent = new ArrayList<>();
        for (int n = 0; n < 500; n++) {
            sent.add("" + n);
        }
        send(channel, key, sent.toArray(new String[0]));
        Found found = consumer(channel, key, false);
        until("all", () -> found.size() == 500);
        equal(found.texts(), sent);
        for (int n = 0; n < 500; n++) {
            equal(found.tagOf(n), n + 1L);
        }
        channel.basicAck(400, true);
        for (long tag = 401; tag <= 500; tag++) {
            channel.basicAck(tag, false);
        }
        AMQP.Queue.DeclareOk declared = channel.queueDeclarePassive(key);
        equal(List.of(declared.getMessageCount(), declared.getConsumerCount()), List.of(0, 1));
        equal(channel.consumerCount(key), 1L);
        channel.close();
        equal(OPEN.get(0).createChannel().basicGet(key, true), null);
        Channel again = OPEN.get(0).createChannel();
        Found all = consumer(again, key, true);
        send(again, key, "a", "b");
        until("both", () -> all.size() == 2);
        again.close();
        equal(OPEN.get(0).createChannel().basicGet(key, true), null);
    }

    private static void requeue() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "a", "b", "c", "d");
        for (int n = 0; n < 3; n++) {
            channel.basicGet(key, false);
        }
        channel.basicNack(2, false, true);
        channel.basicReject(1, true);
        GetResponse first = channel.basicGet(key, false);
        equal(List.of(text(first), first.getEnvelope().isRedeliver()), List.of("a", true));
        equal(text(channel.basicGet(key, false)), "b");
        GetResponse last = channel.basicGet(key, false);
        equal(List.of(text(last), last.getEnvelope().isRedeliver()), List.of("d", false));
        channel.basicNack(0, true, true);
        equal(take(channel, key), List.of("a", "b", "c", "d"));
    }

    private static void reject() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "a", "b", "c");
        for (int n = 0; n < 3; n++) {
            channel.basicGet(key, false);
        }
        channel.basicReject(1, false);
        channel.basicNack(3, true, false);
        equal(channel.basicGet(key, true), null);
        equal(channel.queueDelete(key).getMessageCount(), 0);
    }

    private static void recover() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "a", "b");
        channel.basicGet(key, false);
        channel.basicGet(key, false);
        channel.basicRecover(true);
        GetResponse got = channel.basicGet(key, false);
        equal(List.of(text(got), got.getEnvelope().isRedeliver(), got.getEnvelope().getDeliveryTag()), List.of("a", true, 3L));
    }

    private static void prefetch() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        channel.basicQos(3);
        Found first = consumer(channel, key, false);
        channel.basicQos(2);
        Found second = consumer(channel, key, false);
        send(channel, key, "a", "b", "c", "d", "e", "f", "g", "h");
        until("five", () -> first.size() + second.size() >= 5);
        quiet();
        equal(List.of(first.size(), second.size()), List.of(3, 2));
        channel.basicAck(first.tagOf(0), false);
        channel.basicNack(first.tagOf(1), false, false);
        until("two more", () -> first.size() >= 5);
        quiet();
        equal(List.of(first.size(), second.size()), List.of(5, 2));
    }

    private static void globalPrefetch() throws Exception {
        Channel channel = channel();
        String a = queue(channel);
        String b = queue(channel);
        channel.basicQos(3, true);
        Found found = new Found();
        for (String key : List.of(a, b)) {
            channel.basicConsume(key, false, (tag, delivery) -> found.add(delivery), tag -> { });
        }
        send(channel, a, "a", "a", "a", "a");
        send(channel, b, "b", "b", "b", "b");
        for (int n = 3; n <= 8; n++) {
            int count = n;
            until(count + " messages", () -> found.size() >= count);
            Thread.sleep(50);
            equal(found.size(), count);
            channel.basicAck(found.tagOf(count - 3), false);
        }
    }

    private static void turns() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        channel.basicQos(5);
        Found first = consumer(channel, key, false);
        Found second = consumer(channel, key, false);
        send(channel, key, "abcdefghij".split(""));
        until("ten", () -> first.size() + second.size() == 10);
        equal(List.of(first.size(), second.size()), List.of(5, 5));
    }

    private static void giveBack() throws Exception {
        Channel channel = channel();
        String key = shared(channel, false);
        send(channel, key, "a", "b");
        channel.basicGet(key, false);
        channel.close();
        Channel again = channel.getConnection().createChannel();
        GetResponse got = again.basicGet(key, false);
        equal(List.of(text(got), got.getEnvelope().isRedeliver()), List.of("a", true));
        again.getConnection().close();
        Channel other = channel();
        until("both messages", () -> other.messageCount(key) == 2);
        equal(take(other, key), List.of("a", "b"));
    }

    private static void cancel() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        Found found = consumer(channel, key, true);
        send(channel, key, "a");
        until("one", () -> found.size() == 1);
        channel.basicCancel(found.tag);
        send(channel, key, "b");
        quiet();
        equal(found.size(), 1);
        equal(text(channel.basicGet(key, true)), "b");
        equal(found.cancelled.get(), 0);
    }

    private static void cancelNotification() throws Exception {
        Channel channel = channel();
        String key = shared(channel, false);
        Channel other = channel();
        List<Found> found = List.of(consumer(channel, key, true), consumer(other, key, true));
        channel.queueDelete(key);
        until("both are told", () -> found.stream().allMatch(each -> each.cancelled.get() == 1));
        check(channel.isOpen() && other.isOpen(), "closed");
    }

    private static void exclusiveConsumer() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        channel.basicConsume(key, true, "mine", false, true, null, new DefaultConsumer(channel));
        String words = "ACCESS_REFUSED - queue '" + key + "' in vhost '/' in exclusive use";
        closes(channel.getConnection(), 403, words, on -> consumer(on, key, true));
        channel.basicCancel("mine");
        consumer(channel, key, true);
        closes(channel.getConnection(), 403, words,
            on -> on.basicConsume(key, true, "", false, true, null, new DefaultConsumer(on)));
    }

    // Queues

    private static void serverNamed() throws Exception {
        Channel channel = channel();
        String first = channel.queueDeclare().getQueue();
        String second = channel.queueDeclare().getQueue();
        check(first.startsWith("amq.gen-") && !first.equals(second), first + " " + second);
        String made = exchange(channel, "fanout");
        channel.queueBind("", made, "");
        channel.basicPublish(made, "", null, bytes("to the last"));
        equal(take(channel, second), List.of("to the last"));
        equal(take(channel, first), List.of());
    }

    private static void exclusiveQueue() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        String words = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + key + "' in vhost '/'";
        Connection other = connect(factory());
        for (Action action : List.<Action>of(on -> on.queueDeclarePassive(key), on -> on.queueDeclare(key, false, true, false, null),
            on -> on.queueDelete(key), on -> on.queuePurge(key), on -> on.basicGet(key, true), on -> consumer(on, key, true),
            on -> on.queueBind(key, "amq.direct", "k"))) {
            closes(other, 405, words, action);
        }
        channel.getConnection().close();
        closes(other, 404, "no queue", on -> on.queueDeclarePassive(key));
    }

    private static void autoDelete() throws Exception {
        Channel channel = channel();
        String key = channel.queueDeclare(name("q"), false, false, true, null).getQueue();
        String made = exchange(channel, "direct", true, false, null);
        channel.queueBind(key, made, "k");
        Found found = consumer(channel, key, true);
        Channel other = channel.getConnection().createChannel();
        consumer(other, key, true);
        channel.basicCancel(found.tag);
        equal(channel.queueDeclarePassive(key).getConsumerCount(), 1);
        other.close();
        closes(channel.getConnection(), 404, "no queue '" + key + "'", on -> on.queueDeclarePassive(key));
        closes(channel.getConnection(), 404, "no exchange '" + made + "'", on -> on.exchangeDeclarePassive(made));
    }

    private static void counts() throws Exception {
        Channel channel = confirming();
        String key = shared(channel, false);
        send(channel, key, "a", "b", "c");
        equal(channel.queueDeclare(key, false, false, false, null).getMessageCount(), 3);
        GetResponse got = channel.basicGet(key, false);
        equal(channel.queuePurge(key).getMessageCount(), 2);
        channel.basicNack(got.getEnvelope().getDeliveryTag(), false, true);
        // RabbitMQ counts it a moment later.
        until("it is back", () -> channel.messageCount(key) == 1);
        Connection connection = channel.getConnection();
        closes(connection, 406, "PRECONDITION_FAILED - queue '" + key + "' in vhost '/' not empty", on -> on.queueDelete(key, false, true));
        Found found = consumer(channel, key, true);
        until("it", () -> found.size() == 1);
        closes(connection, 406, "PRECONDITION_FAILED - queue '" + key + "' in vhost '/' in use", on -> on.queueDelete(key, true, false));
        channel.basicCancel(found.tag);
        equal(channel.queueDelete(key, true, true).getMessageCount(), 0);
    }

    private static void queueEquivalence() throws Exception {
        Channel channel = channel();
        String key = shared(channel, false);
        String words = "' for queue '" + key + "' in vhost '/': received 'true' but current is 'false'";
        Connection connection = channel.getConnection();
        closes(connection, 406, "PRECONDITION_FAILED - inequivalent arg 'durable" + words, on -> on.queueDeclare(key, true, false, false, null));
        closes(connection, 406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete" + words, on -> on.queueDeclare(key, false, false, true, null));
        equal(channel.queueDeclare(key, false, false, false, null).getQueue(), key);
    }

    private static void exchangeEquivalence() throws Exception {
        Channel channel = channel();
        String made = exchange(channel, "direct");
        Connection connection = channel.getConnection();
        String of = "' for exchange '" + made + "' in vhost '/': received '";
        closes(connection, 406, "PRECONDITION_FAILED - inequivalent arg 'type" + of + "fanout' but current is 'direct'",
            on -> on.exchangeDeclare(made, "fanout"));
        closes(connection, 406, "inequivalent arg 'durable" + of + "true' but current is 'false'", on -> on.exchangeDeclare(made, "direct", true));
        closes(connection, 406, "inequivalent arg 'auto_delete" + of + "true' but current is 'false'",
            on -> on.exchangeDeclare(made, "direct", false, true, null));
        closes(connection, 406, "inequivalent arg 'internal" + of + "true' but current is 'false'",
            on -> on.exchangeDeclare(made, "direct", false, false, true, null));
        channel.exchangeDeclare(made, "direct");
        String key = queue(channel);
        channel.queueBind(key, made, "k");
        closes(connection, 406, "PRECONDITION_FAILED - exchange '" + made + "' in vhost '/' in use", on -> on.exchangeDelete(made, true));
        channel.queueUnbind(key, made, "k");
        channel.exchangeDelete(made, true);
        if (!OLD_RABBITMQ) {
            closes(connection, 406, "PRECONDITION_FAILED - unknown exchange type 'odd'", on -> on.exchangeDeclare(name("x"), "odd"));
        }
    }

    private static void missing() throws Exception {
        Channel channel = channel();
        String missing = name("missing");
        String key = queue(channel);
        String noQueue = "NOT_FOUND - no queue '" + missing + "' in vhost '/'";
        for (Action action : List.<Action>of(on -> on.queueDeclarePassive(missing), on -> on.basicGet(missing, true),
            on -> consumer(on, missing, true), on -> on.queuePurge(missing), on -> on.queueBind(missing, "amq.direct", "k"))) {
            closes(channel.getConnection(), 404, noQueue, action);
        }
        String noExchange = "NOT_FOUND - no exchange '" + missing + "' in vhost '/'";
        for (Action action : List.<Action>of(on -> on.exchangeDeclarePassive(missing), on -> on.basicPublish(missing, "k", null, bytes("")),
            on -> on.queueBind(key, missing, "k"), on -> on.exchangeBind("amq.fanout", missing, ""))) {
            closes(channel.getConnection(), 404, noExchange, action);
        }
        closes(channel.getConnection(), 404, "NOT_FOUND - no previously declared queue", on -> on.queuePurge(""));
        equal(channel.queueDelete(missing).getMessageCount(), 0);
        channel.exchangeDelete(missing);
        channel.queueUnbind(key, "amq.direct", "never bound");
    }

    private static void reserved() throws Exception {
        Connection connection = channel().getConnection();
        closes(connection, 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
            on -> on.queueDeclare("amq.mine", false, false, false, null));
        closes(connection, 403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
            on -> on.exchangeDeclare("amq.mine", "direct"));
        closes(connection, 403, "ACCESS_REFUSED - operation not permitted on the default exchange", on -> on.exchangeDelete(""));
        closes(connection, 403, "ACCESS_REFUSED - operation not permitted on the default exchange", on -> on.queueBind(queue(on), "", "k"));
    }

    private static void unknownTags() throws Exception {
        Connection connection = channel().getConnection();
        closes(connection, 406, "PRECONDITION_FAILED - unknown delivery tag 7", on -> on.basicAck(7, false));
        closes(connection, 406, "PRECONDITION_FAILED - unknown delivery tag 7", on -> on.basicNack(7, false, true));
        closes(connection, 406, "PRECONDITION_FAILED - unknown delivery tag 7", on -> on.basicReject(7, true));
    }

    // Exchanges

    private static void routing() throws Exception {
        Channel channel = channel();
        for (List<List<String>> each : List.of(
            List.of(List.of("direct", "a.b"), List.of("a.b"), List.of("a", "a.b.c")),
            List.of(List.of("fanout", ""), List.of("a.b", ""), List.<String>of()),
            List.of(List.of("topic", "a.*.c"), List.of("a.b.c", "a..c"), List.of("a.c", "a.b.b.c")),
            List.of(List.of("topic", "a.#"), List.of("a", "a.b", "a.b.c"), List.of("b.a", "")),
            List.of(List.of("topic", "a.#.b.*"), List.of("a.b.c", "a.x.b.c", "a.b.b.b"), List.of("a.b", "a.x.c")),
            List.of(List.of("topic", "#"), List.of("", "anything.at.all"), List.<String>of()))) {
            String made = exchange(channel, each.get(0).get(0));
            String key = queue(channel);
            channel.queueBind(key, made, each.get(0).get(1));
            for (int right = 1; right <= 2; right++) {
                for (String routing : each.get(right)) {
                    channel.basicPublish(made, routing, null, bytes(routing));
                }
            }
            equal(take(channel, key), each.get(1));
        }
    }

    private static void headersExchange() throws Exception {
        Channel channel = channel();
        String made = exchange(channel, "headers");
        for (List<Object> each : List.of(
            List.<Object>of(Map.of("x-match", "all", "a", 1, "b", "two"), Map.of("a", 1, "b", "two", "c", 3), Map.of("a", 1)),
            List.<Object>of(Map.of("x-match", "any", "a", 1, "b", "two"), Map.of("b", "two"), Map.of("a", 2)),
            List.<Object>of(Map.of("a", 1L), Map.of("a", 1), Map.of("b", 1)))) {
            String key = queue(channel);
            channel.queueBind(key, made, "", arguments(each.get(0)));
            channel.basicPublish(made, "", new AMQP.BasicProperties.Builder().headers(arguments(each.get(1))).build(), bytes("right"));
            channel.basicPublish(made, "", new AMQP.BasicProperties.Builder().headers(arguments(each.get(2))).build(), bytes("wrong"));
            channel.basicPublish(made, "", null, bytes("wrong"));
            equal(take(channel, key), List.of("right"));
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> arguments(Object table) {
        return (Map<String, Object>) table;
    }

    private static void exchangeToExchange() throws Exception {
        Channel channel = channel();
        String source = exchange(channel, "topic");
        String target = exchange(channel, "fanout");
        String key = queue(channel);
        channel.exchangeBind(target, source, "a.*");
        channel.queueBind(key, target, "");
        channel.basicPublish(source, "a.b", null, bytes("yes"));
        channel.basicPublish(source, "b.a", null, bytes("no"));
        equal(take(channel, key), List.of("yes"));
        channel.exchangeUnbind(target, source, "a.*");
        channel.basicPublish(source, "a.b", null, bytes("no"));
        equal(take(channel, key), List.of());
    }

    private static void alternate() throws Exception {
        Channel channel = channel();
        String rest = exchange(channel, "fanout");
        String made = exchange(channel, "direct", false, false, Map.of("alternate-exchange", rest));
        String known = queue(channel);
        String others = queue(channel);
        channel.queueBind(known, made, "known");
        channel.queueBind(others, rest, "");
        channel.basicPublish(made, "known", null, bytes("known"));
        channel.basicPublish(made, "unknown", null, bytes("unknown"));
        equal(List.of(take(channel, known), take(channel, others)), List.of(List.of("known"), List.of("unknown")));
    }

    private static void internal() throws Exception {
        Channel channel = channel();
        String made = exchange(channel, "fanout", false, true, null);
        String words = "ACCESS_REFUSED - cannot publish to internal exchange '" + made + "' in vhost '/'";
        closes(channel.getConnection(), 403, words, on -> on.basicPublish(made, "", null, bytes("")));
    }

    private static void noWait() throws Exception {
        Channel channel = channel();
        String key = name("q");
        String made = name("x");
        LEFT.add(cleaner -> cleaner.exchangeDelete(made));
        channel.queueDeclareNoWait(key, false, true, false, null);
        channel.exchangeDeclareNoWait(made, "direct", false, false, false, null);
        channel.queueBindNoWait(key, made, "k", null);
        channel.basicPublish(made, "k", null, bytes("a"));
        equal(take(channel, key), List.of("a"));
        channel.queueDeleteNoWait(key, false, false);
        channel.exchangeDeleteNoWait(made, false);
        closes(channel.getConnection(), 404, "no queue", on -> on.queueDeclarePassive(key));
        closes(channel.getConnection(), 404, "no exchange", on -> on.exchangeDeclarePassive(made));
    }

    // Applications

    private static void threads() throws Exception {
        Connection connection = connect(factory());
        String key = shared(connection.createChannel(), true);
        ConcurrentMap<String, Integer> done = new ConcurrentHashMap<>();
        for (int n = 0; n < 4; n++) {
            Channel worker = connection.createChannel();
            worker.basicQos(10);
            worker.basicConsume(key, false, (tag, delivery) -> {
                done.merge(new String(delivery.getBody(), StandardCharsets.UTF_8), 1, Integer::sum);
                worker.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            }, tag -> { });
        }
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<?>> publishers = new ArrayList<>();
        for (int n = 0; n < 4; n++) {
            int publisher = n;
            publishers.add(pool.submit(() -> {
                Channel channel = connection.createChannel();
                channel.confirmSelect();
                for (int m = 0; m < 500; m++) {
                    channel.basicPublish("", key, MessageProperties.PERSISTENT_BASIC, bytes(publisher + "/" + m));
                }
                channel.waitForConfirmsOrDie(SECONDS * 1000);
                return null;
            }));
        }
        for (Future<?> publisher : publishers) {
            publisher.get();
        }
        pool.shutdown();
        until("all work", () -> done.size() == 2000);
        check(done.values().stream().allMatch(times -> times == 1), "some work was done twice");
    }

    private static void rpc() throws Exception {
        Channel server = channel();
        String key = queue(server);
        StringRpcServer answering = new StringRpcServer(server, key) {
            @Override
            public String handleStringCall(String request, AMQP.BasicProperties replyProperties) {
                return request.toUpperCase(Locale.ROOT);
            }
        };
        Thread thread = new Thread(() -> {
            try {
                answering.mainloop();
            } catch (IOException | ShutdownSignalException ended) {
                // The test is over.
            }
        });
        thread.setDaemon(true);
        thread.start();
        Channel channel = channel();
        String replies = queue(channel);
        RpcClient client = new RpcClient(new RpcClientParams().channel(channel).exchange("").routingKey(key).replyTo(replies).timeout(SECONDS * 1000));
        for (String word : List.of("one", "two", "three")) {
            equal(client.stringCall(word), word.toUpperCase(Locale.ROOT));
        }
    }

    private static void recovery() throws Exception {
        ConnectionFactory factory = factory();
        factory.setAutomaticRecoveryEnabled(true);
        factory.setTopologyRecoveryEnabled(true);
        factory.setNetworkRecoveryInterval(100);
        Connection connection = connect(factory);
        CountDownLatch recovered = new CountDownLatch(1);
        ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecovery(Recoverable recoverable) {
                recovered.countDown();
            }

            @Override
            public void handleRecoveryStarted(Recoverable recoverable) { }
        });
        Channel channel = connection.createChannel();
        String named = queue(channel);
        String unnamed = channel.queueDeclare().getQueue();
        String made = exchange(channel, "direct", true, false, null);
        channel.queueBind(named, made, "named");
        channel.queueBind(unnamed, made, "unnamed");
        Found found = consumer(channel, named, true);
        Found other = consumer(channel, unnamed, true);
        // No broker has immediate delivery any more: it ends the connection.
        connection.createChannel().basicPublish("", named, false, true, null, bytes("now"));
        check(recovered.await(SECONDS, TimeUnit.SECONDS), "not recovered");
        channel.basicPublish(made, "named", null, bytes("a"));
        channel.basicPublish(made, "unnamed", null, bytes("b"));
        until("the second queue's", () -> other.size() == 1);
        equal(other.texts(), List.of("b"));
        check(found.size() <= 1, found);
    }
}
