import com.rabbitmq.client.*;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** What queues, streams and exchanges of RabbitMQ can do beyond the protocol. As pika's tests do. */
final class FeatureTests extends ClientTests {
    /** HOST:PORT of the management API, for policies and virtual hosts. */
    private static final String API = System.getenv("API");
    private static final String PSEUDO = "amq.rabbitmq.reply-to";

    static void add(Map<String, Body> tests) {
        tests.put("messages-expire", FeatureTests::expiration);
        tests.put("queues-have-times-to-live", FeatureTests::timeToLive);
        tests.put("queues-that-nobody-uses-are-deleted", FeatureTests::expires);
        tests.put("full-queues-drop-their-oldest", FeatureTests::dropHead);
        tests.put("full-queues-refuse-if-asked-to", FeatureTests::rejectPublish);
        tests.put("what-a-full-queue-refuses-can-be-dead-lettered", FeatureTests::rejectPublishDeadLettered);
        tests.put("rejected-messages-are-dead-lettered", FeatureTests::deadLetters);
        tests.put("what-fails-goes-round-and-is-counted", FeatureTests::retryCycle);
        tests.put("delivery-counts-and-limit", FeatureTests::deliveryLimit);
        tests.put("what-fails-waits-before-it-is-tried-again", FeatureTests::delayedRetry);
        tests.put("who-does-not-acknowledge-in-time-is-cancelled", FeatureTests::consumerTimeout);
        tests.put("messages-can-be-delayed", FeatureTests::delayed);
        tests.put("delayed-messages-are-routed-when-they-are-due", FeatureTests::delayedRouting);
        tests.put("streams-are-read-from-anywhere", FeatureTests::streams);
        tests.put("streams-wait-for-acknowledgements", FeatureTests::streamCredit);
        tests.put("streams-say-what-they-are-not", FeatureTests::streamRefusals);
        tests.put("streams-are-filtered", FeatureTests::streamFilters);
        tests.put("exchanges-route-into-streams-and-queues", FeatureTests::streamRouting);
        tests.put("transactions-of-publishes-and-acknowledgements", FeatureTests::transactions);
        tests.put("a-rollback-keeps-what-was-acknowledged", FeatureTests::rollback);
        tests.put("transactions-and-confirms-do-not-mix", FeatureTests::transactionsAndConfirms);
        tests.put("the-highest-priority-comes-first", FeatureTests::priorities);
        tests.put("priorities-and-limits", FeatureTests::prioritiesAndLimits);
        tests.put("quorum-queues-know-priorities", FeatureTests::quorumPriorities);
        tests.put("consumer-priorities", FeatureTests::consumerPriorities);
        tests.put("single-active-consumer", FeatureTests::singleActive);
        tests.put("direct-replies-reach-the-channel-that-asked", FeatureTests::directReplies);
        tests.put("wrong-arguments-of-queues-are-told", FeatureTests::wrongArguments);
        tests.put("policies-hold-at-once", FeatureTests::policies);
        tests.put("virtual-hosts-are-apart", FeatureTests::virtualHosts);
    }

    // Helpers

    private static void since(String why) {
        if (OLD_RABBITMQ) {
            throw new Skip(why);
        }
    }

    private static AMQP.BasicProperties.Builder with() {
        return new AMQP.BasicProperties.Builder();
    }

    private static AMQP.BasicProperties headers(Map<String, Object> headers) {
        return with().headers(headers).build();
    }

    private static Map<String, Object> letters(String dead, Object... more) {
        Map<String, Object> arguments = new HashMap<>(Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", dead));
        for (int n = 0; n < more.length; n += 2) {
            arguments.put((String) more[n], more[n + 1]);
        }
        return arguments;
    }

    /** A queue of this connection's own. */
    private static String queue(Channel channel, Map<String, Object> arguments) throws Exception {
        return channel.queueDeclare(name("q"), false, true, false, arguments).getQueue();
    }

    /** A durable queue that others may use. */
    private static String durable(Channel channel, Map<String, Object> arguments) throws Exception {
        String made = channel.queueDeclare(name("d"), true, false, false, arguments).getQueue();
        LEFT.add(cleaner -> cleaner.queueDelete(made));
        return made;
    }

    private static String stream(Channel channel) throws Exception {
        return durable(channel, Map.of("x-queue-type", "stream"));
    }

    /** One message on a channel with confirms; whether it was taken. */
    private static boolean put(Channel channel, String exchange, String key, AMQP.BasicProperties properties, String body) throws Exception {
        channel.basicPublish(exchange, key, true, properties, bytes(body));
        return channel.waitForConfirms(SECONDS * 1000);
    }

    private static boolean put(Channel channel, String key, String body) throws Exception {
        return put(channel, "", key, null, body);
    }

    private static GetResponse got(Channel channel, String key) throws Exception {
        AtomicReference<GetResponse> found = new AtomicReference<>();
        until("a message", () -> {
            found.set(channel.basicGet(key, false));
            return found.get() != null;
        });
        return found.get();
    }

    private static long tag(GetResponse message) {
        return message.getEnvelope().getDeliveryTag();
    }

    private static Map<?, ?> death(AMQP.BasicProperties properties) {
        return (Map<?, ?>) ((List<?>) properties.getHeaders().get("x-death")).get(0);
    }

    private static Found consume(Channel channel, String key, Map<String, Object> arguments) throws Exception {
        Found found = new Found();
        found.tag = channel.basicConsume(key, false, arguments, (tag, delivery) -> found.add(delivery), tag -> found.cancelled.incrementAndGet());
        return found;
    }

    // Time and length

    private static void expiration() throws Exception {
        Channel channel = confirming();
        String key = queue(channel);
        put(channel, "", key, with().expiration("0").build(), "a");
        equal(take(channel, key), List.of());
        put(channel, "", key, with().expiration("3600000").priority(7).build(), "b");
        AMQP.BasicProperties kept = channel.basicGet(key, true).getProps();
        equal(List.of(kept.getExpiration(), kept.getPriority()), List.of("3600000", 7));
        put(channel, "", key, with().expiration("50").build(), "c");
        until("nobody looked and it is gone", () -> channel.messageCount(key) == 0);
        put(channel, key, "stays");
        put(channel, "", key, with().expiration("10").build(), "goes");
        Thread.sleep(100);
        equal(channel.messageCount(key), 2L);
        equal(text(channel.basicGet(key, true)), "stays");
        until("its turn came", () -> channel.messageCount(key) == 0);
        closes(channel.getConnection(), 406, "PRECONDITION_FAILED - invalid expiration 'soon': no_integer",
            on -> on.basicPublish("", key, with().expiration("soon").build(), bytes("")));
    }

    private static void timeToLive() throws Exception {
        Channel channel = confirming();
        String key = queue(channel, Map.of("x-message-ttl", 50));
        put(channel, key, "a");
        put(channel, "", key, with().expiration("3600000").build(), "b");
        until("both are gone", () -> channel.messageCount(key) == 0);
        put(channel, key, "c");
        GetResponse held = channel.basicGet(key, false);
        Thread.sleep(200);
        channel.basicNack(tag(held), false, true);
        equal(take(channel, key), List.of());
    }

    private static void expires() throws Exception {
        Channel channel = channel();
        String key = durable(channel, Map.of("x-expires", 300));
        Found found = consumer(channel, key, true);
        Thread.sleep(600);
        send(channel, key, "a");
        until("used while consumed", () -> found.size() == 1);
        channel.basicCancel(found.tag);
        Thread.sleep(1000);
        closes(channel.getConnection(), 404, "no queue '" + key + "'", on -> on.queueDeclarePassive(key));
    }

    private static void dropHead() throws Exception {
        Channel channel = confirming();
        String dead = queue(channel);
        String key = queue(channel, letters(dead, "x-max-length", 2));
        send(channel, key, "a", "b", "c");
        equal(death(got(channel, dead).getProps()).get("reason").toString(), "maxlen");
        equal(take(channel, key), List.of("b", "c"));
        String small = queue(channel, Map.of("x-max-length-bytes", 5));
        send(channel, small, "aaa", "bb", "c");
        equal(take(channel, small), List.of("bb", "c"));
    }

    private static void rejectPublish() throws Exception {
        Channel channel = confirming();
        for (String overflow : List.of("reject-publish", "reject-publish-dlx")) {
            String key = queue(channel, Map.of("x-max-length", 2, "x-overflow", overflow));
            equal(List.of(put(channel, key, "a"), put(channel, key, "b"), put(channel, key, "c")), List.of(true, true, false));
            equal(take(channel, key), List.of("a", "b"));
            check(put(channel, key, "d"), "room again");
        }
    }

    private static void rejectPublishDeadLettered() throws Exception {
        Channel channel = confirming();
        String dead = queue(channel);
        String key = queue(channel, letters(dead, "x-max-length", 1, "x-overflow", "reject-publish-dlx"));
        equal(List.of(put(channel, key, "a"), put(channel, key, "b"), put(channel, key, "c")), List.of(true, false, false));
        until("they are dead letters", () -> channel.messageCount(dead) == 2);
        GetResponse letter = channel.basicGet(dead, true);
        Map<?, ?> death = death(letter.getProps());
        equal(List.of(text(letter), death.get("reason").toString(), death.get("queue").toString(), death.get("count")),
            List.of("b", "maxlen", key, 1L));
        equal(List.of(take(channel, dead), take(channel, key)), List.of(List.of("c"), List.of("a")));
    }

    // Failure

    private static void deadLetters() throws Exception {
        Channel channel = channel();
        String dead = queue(channel);
        String letters = exchange(channel, "fanout");
        channel.queueBind(dead, letters, "");
        String key = queue(channel, Map.of("x-dead-letter-exchange", letters));
        channel.basicPublish("", key, with().headers(Map.of("mine", 1)).contentType("text/plain").build(), bytes("body"));
        channel.basicReject(tag(got(channel, key)), false);
        GetResponse letter = got(channel, dead);
        equal(List.of(letter.getEnvelope().getExchange(), letter.getEnvelope().getRoutingKey(), text(letter)), List.of(letters, key, "body"));
        Map<String, Object> headers = letter.getProps().getHeaders();
        Map<?, ?> death = death(letter.getProps());
        check(death.get("time") instanceof Date, death);
        equal(death.get("count"), 1L);
        equal(List.of(death.get("queue").toString(), death.get("reason").toString(), death.get("exchange").toString(),
            death.get("routing-keys").toString()), List.of(key, "rejected", "", "[" + key + "]"));
        equal(List.of(headers.get("mine"), letter.getProps().getContentType()), List.of(1, "text/plain"));
        for (Map.Entry<String, String> first : Map.of("queue", key, "reason", "rejected", "exchange", "").entrySet()) {
            equal(headers.get("x-first-death-" + first.getKey()).toString(), first.getValue());
        }
    }

    private static void retryCycle() throws Exception {
        Channel channel = channel();
        String work = name("work");
        String retry = queue(channel, letters(work, "x-message-ttl", 20));
        channel.queueDeclare(work, false, true, false, letters(retry));
        send(channel, work, "x");
        for (long times = 0; times < 4; times++) {
            GetResponse message = got(channel, work);
            Map<String, Object> headers = message.getProps().getHeaders();
            List<?> deaths = headers == null ? List.of() : (List<?>) headers.get("x-death");
            long counted = deaths.stream().map(each -> (Map<?, ?>) each).filter(each -> each.get("queue").toString().equals(work))
                .mapToLong(each -> (Long) each.get("count")).sum();
            equal(counted, times);
            channel.basicReject(tag(message), false);
        }
    }

    private static void deliveryLimit() throws Exception {
        Channel channel = channel();
        String dead = queue(channel);
        String key = durable(channel, letters(dead, "x-queue-type", "quorum", "x-delivery-limit", 2));
        send(channel, key, "a");
        for (long times = 0; times < 3; times++) {
            GetResponse message = got(channel, key);
            Map<String, Object> headers = message.getProps().getHeaders();
            Object counted = headers == null ? null : headers.get("x-delivery-count");
            equal(counted == null ? 0L : counted, times);
            equal(message.getEnvelope().isRedeliver(), times > 0);
            channel.basicReject(tag(message), true);
        }
        equal(death(got(channel, dead).getProps()).get("reason").toString(), "delivery_limit");
        equal(channel.basicGet(key, true), null);
    }

    private static void delayedRetry() throws Exception {
        since("delayed retries are of 4.3");
        Channel channel = channel();
        String key = durable(channel, Map.of("x-queue-type", "quorum", "x-delayed-retry-type", "all",
            "x-delayed-retry-min", 200, "x-delayed-retry-max", 300));
        send(channel, key, "1");
        Found found = consumer(channel, key, false);
        for (int number = 1; number <= 3; number++) {
            int count = number;
            until("a delivery", () -> found.size() == count);
            long began = System.nanoTime();
            channel.basicReject(found.tagOf(count - 1), true);
            until("it is tried again", () -> found.size() == count + 1);
            long waited = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
            check(waited >= (count == 1 ? 200 : 300), count + ": " + waited + " ms");
        }
        equal(found.get(3).getProperties().getHeaders().get("x-delivery-count"), 3L);
    }

    private static void consumerTimeout() throws Exception {
        since("quorum queues cancel consumers since 4.3");
        Channel channel = channel();
        String key = durable(channel, Map.of("x-queue-type", "quorum", "x-consumer-timeout", 200));
        Found slow = consumer(channel, key, false);
        send(channel, key, "1");
        until("it is cancelled", () -> slow.cancelled.get() == 1);
        Found next = consumer(channel, key, false);
        until("another delivery", () -> next.size() == 1);
        check(next.get(0).getEnvelope().isRedeliver(), "not redelivered");
        equal(next.get(0).getProperties().getHeaders().get("x-acquired-count"), 1L);
        channel.basicAck(slow.tagOf(0), false); // Late, and no mistake.
        channel.basicAck(next.tagOf(0), false);
        equal(take(channel, key), List.of());
        send(channel, key, "2");
        closes(channel.getConnection(), 406, "PRECONDITION_FAILED - delivery acknowledgement on channel", on -> got(on, key));
    }

    // Delayed messages

    private static String later(Channel channel, String type) throws Exception {
        since("a plugin of RabbitMQ's that is not installed");
        return exchange(channel, "x-delayed-message", false, false, Map.of("x-delayed-type", type));
    }

    private static void delayed() throws Exception {
        Channel channel = confirming();
        String later = later(channel, "direct");
        List<String> returned = new CopyOnWriteArrayList<>();
        channel.addReturnListener(message -> returned.add(message.getRoutingKey()));
        String key = queue(channel);
        channel.queueBind(key, later, "k");
        Found found = consumer(channel, key, true);
        long began = System.nanoTime();
        for (List<Object> each : List.of(List.<Object>of("3", 600), List.<Object>of("1", 200L), List.<Object>of("2", "400"), List.<Object>of("0"))) {
            Map<String, Object> headers = each.size() == 1 ? Map.of() : Map.of("x-delay", each.get(1));
            check(put(channel, later, "k", with().headers(headers).deliveryMode(2).build(), (String) each.get(0)), "refused");
        }
        until("all of them", () -> found.size() == 4);
        check(System.nanoTime() - began >= TimeUnit.MILLISECONDS.toNanos(600), "too early");
        equal(found.texts(), List.of("0", "1", "2", "3"));
        put(channel, later, "delayed", headers(Map.of("x-delay", 1)), "");
        put(channel, later, "at once", null, "");
        quiet();
        equal(returned, List.of("at once"));
    }

    private static void delayedRouting() throws Exception {
        Channel channel = channel();
        String later = later(channel, "topic");
        String early = queue(channel);
        String late = queue(channel);
        channel.queueBind(early, later, "#");
        channel.basicPublish(later, "a.b", headers(Map.of("x-delay", 300)), bytes("1"));
        channel.queueUnbind(early, later, "#");
        channel.queueBind(late, later, "a.*");
        until("it is in the other queue", () -> channel.messageCount(late) == 1);
        equal(channel.messageCount(early), 0L);
        Connection connection = channel.getConnection();
        closes(connection, 406, "'x-delayed-type' must be an existing exchange type",
            on -> on.exchangeDeclare(name("wrong"), "x-delayed-message", false, false, null));
        closes(connection, 406, "'x-delayed-message' can't be used for 'x-delayed-type'",
            on -> on.exchangeDeclare(name("wrong"), "x-delayed-message", false, false, Map.of("x-delayed-type", "x-delayed-message")));
    }

    // Streams

    private static List<String> read(Channel channel, String key, int count, Map<String, Object> arguments) throws Exception {
        Found found = new Found();
        String tag = channel.basicConsume(key, false, arguments, (consumer, delivery) -> {
            found.add(delivery);
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }, consumer -> { });
        until(count + " messages", () -> found.size() >= count);
        quiet();
        channel.basicCancel(tag);
        long last = -1;
        for (Delivery delivery : found) {
            long offset = (Long) delivery.getProperties().getHeaders().get("x-stream-offset");
            check(offset > last && !delivery.getEnvelope().isRedeliver(), delivery.getProperties());
            last = offset;
        }
        return found.texts();
    }

    private static Channel prefetching(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.basicQos(100);
        return channel;
    }

    private static void streams() throws Exception {
        Channel channel = confirming();
        String key = stream(channel);
        send(channel, key, "a", "b", "c");
        channel.basicQos(1);
        List<String> all = List.of("a", "b", "c");
        Map<Object, List<String>> places = new LinkedHashMap<>();
        places.put("first", all);
        places.put(1, List.of("b", "c"));
        places.put(2L, List.of("c"));
        places.put(new Date(0), all);
        places.put("1h", all);
        for (Map.Entry<Object, List<String>> place : places.entrySet()) {
            equal(read(channel, key, place.getValue().size(), Map.of("x-stream-offset", place.getKey())), place.getValue());
        }
        Connection connection = channel.getConnection();
        // `last` is a chunk in RabbitMQ, whose size nobody promises; the last message is in it.
        Found last = consume(prefetching(connection), key, Map.of("x-stream-offset", "last"));
        until("the last one", () -> !last.isEmpty() && last.texts().get(last.size() - 1).equals("c"));
        Found next = consume(prefetching(connection), key, Map.of("x-stream-offset", "next"));
        Found unsaid = consume(prefetching(connection), key, Map.of());
        quiet();
        equal(next.size() + unsaid.size(), 0);
        send(channel, key, "d", "e");
        until("what is new", () -> next.size() == 2 && unsaid.size() == 2);
        equal(List.of(next.texts(), unsaid.texts()), List.of(List.of("d", "e"), List.of("d", "e")));
    }

    private static void streamCredit() throws Exception {
        Channel channel = confirming();
        String key = stream(channel);
        // One by one: before 3.13 what was written at once came at once.
        for (String body : List.of("a", "b", "c", "d")) {
            put(channel, key, body);
        }
        channel.basicQos(2);
        Found found = consume(channel, key, Map.of("x-stream-offset", "first"));
        until("two", () -> found.size() == 2);
        quiet();
        equal(found.size(), 2);
        // To give back is no more than to be done; before RabbitMQ 4 it was not implemented.
        if (OLD_RABBITMQ) {
            channel.basicAck(found.tagOf(1), true);
        } else {
            channel.basicNack(found.tagOf(1), true, true);
        }
        until("the next two", () -> found.size() == 4);
        equal(found.texts(), List.of("a", "b", "c", "d"));
    }

    private static void streamRefusals() throws Exception {
        String key = stream(channel());
        Map<String, Action> refused = new LinkedHashMap<>();
        refused.put("basic.get not supported", on -> on.basicGet(key, false));
        refused.put("queue.purge not supported", on -> on.queuePurge(key));
        if (!OLD_RABBITMQ) {
            // Before 4.3 the words were others.
            refused.put("automatic acknowledgement", on -> consumer(on, key, true));
        }
        for (Map.Entry<String, Action> each : refused.entrySet()) {
            Channel on = prefetching(connect(factory()));
            CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
            on.getConnection().addShutdownListener(closed::complete);
            try {
                each.getValue().on(on);
            } catch (java.io.IOException | AlreadyClosedException told) {
                // The connection's end says it as well.
            }
            AMQP.Connection.Close close = (AMQP.Connection.Close) closed.get(SECONDS, TimeUnit.SECONDS).getReason();
            equal(close.getReplyCode(), 540);
            check(close.getReplyText().contains(each.getKey()), close);
        }
        Connection connection = connect(factory());
        closes(connection, 406, "consumer prefetch count is not set", on -> consumer(on, key, false));
        Map<String, Object> arguments = Map.of("x-queue-type", "stream");
        closes(connection, 406, "invalid property 'auto-delete'", on -> on.queueDeclare(name("s"), true, false, true, arguments));
        closes(connection, 406, "'non-durable'", on -> on.queueDeclare(name("s"), false, false, false, arguments));
    }

    private static void streamFilters() throws Exception {
        since("filters came with RabbitMQ 3.13");
        Channel channel = confirming();
        String key = stream(channel);
        for (String each : List.of("eu a", "us b", " c", "eu d")) {
            String value = each.split(" ")[0];
            Map<String, Object> headers = value.isEmpty() ? Map.of() : Map.of("x-stream-filter-value", value);
            put(channel, "", key, headers(headers), each.split(" ")[1]);
        }
        channel.basicQos(10);
        Map<String, Object> first = Map.of("x-stream-offset", "first");
        equal(read(channel, key, 2, merged(first, Map.of("x-stream-filter", "eu"))), List.of("a", "d"));
        equal(read(channel, key, 3, merged(first, Map.of("x-stream-filter", List.of("eu", "us")))), List.of("a", "b", "d"));
        equal(read(channel, key, 2, merged(first, Map.of("x-stream-filter", "us", "x-stream-match-unfiltered", true))), List.of("b", "c"));
    }

    private static Map<String, Object> merged(Map<String, Object> one, Map<String, Object> other) {
        Map<String, Object> both = new HashMap<>(one);
        both.putAll(other);
        return both;
    }

    private static void streamRouting() throws Exception {
        Channel channel = confirming();
        String key = stream(channel);
        String other = queue(channel);
        String made = exchange(channel, "topic");
        channel.queueBind(key, made, "a.#");
        channel.queueBind(other, made, "#");
        for (String routing : List.of("a", "b", "a.b")) {
            check(put(channel, made, routing, headers(Map.of("n", 1)), routing), "refused");
        }
        channel.basicQos(10);
        equal(read(channel, key, 2, Map.of("x-stream-offset", "first")), List.of("a", "a.b"));
        equal(take(channel, other), List.of("a", "b", "a.b"));
    }

    // Transactions

    private static void transactions() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "1", "2");
        channel.txSelect();
        channel.basicAck(tag(got(channel, key)), false);
        channel.basicPublish("", key, null, bytes("3"));
        Channel other = channel.getConnection().createChannel();
        equal(other.messageCount(key), 1L);
        channel.txCommit();
        equal(take(other, key), List.of("2", "3"));
        channel.basicPublish("", key, null, bytes("4"));
        channel.txRollback();
        channel.txCommit();
        equal(take(other, key), List.of());
    }

    private static void rollback() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        send(channel, key, "1");
        channel.txSelect();
        long held = tag(got(channel, key));
        channel.basicAck(held, false);
        channel.txRollback();
        Channel other = channel.getConnection().createChannel();
        equal(take(other, key), List.of());
        channel.basicNack(held, false, true);
        channel.txCommit();
        until("it is back", () -> other.messageCount(key) == 1);
    }

    private static void transactionsAndConfirms() throws Exception {
        Connection connection = connect(factory());
        closes(connection, 406, "cannot switch from confirm to tx mode", on -> {
            on.confirmSelect();
            on.txSelect();
        });
        closes(connection, 406, "cannot switch from tx to confirm mode", on -> {
            on.txSelect();
            on.confirmSelect();
        });
        closes(connection, 406, "channel is not transactional", Channel::txCommit);
        closes(connection, 406, "channel is not transactional", Channel::txRollback);
    }

    // Priorities, and who gets what

    private static void mixed(Channel channel, String key, Object... bodiesAndPriorities) throws Exception {
        for (int n = 0; n < bodiesAndPriorities.length; n += 2) {
            put(channel, "", key, with().priority((Integer) bodiesAndPriorities[n + 1]).build(), (String) bodiesAndPriorities[n]);
        }
    }

    private static void priorities() throws Exception {
        Channel channel = confirming();
        String key = queue(channel, Map.of("x-max-priority", 5));
        mixed(channel, key, "none", null, "0", 0, "3", 3, "9", 9, "1", 1, "3 again", 3);
        List<String> ordered = List.of("9", "3", "3 again", "1", "none", "0");
        List<GetResponse> held = new ArrayList<>();
        for (String expected : ordered) {
            held.add(channel.basicGet(key, false));
            equal(text(held.get(held.size() - 1)), expected);
        }
        for (int at : new int[] {4, 1, 5, 0, 2, 3}) {
            channel.basicNack(tag(held.get(at)), false, true);
        }
        until("all are back", () -> channel.messageCount(key) == ordered.size());
        channel.basicQos(1);
        Found found = new Found();
        channel.basicConsume(key, false, (consumer, delivery) -> {
            found.add(delivery);
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }, consumer -> { });
        until("all of them", () -> found.size() == ordered.size());
        equal(found.texts(), ordered);
    }

    private static void prioritiesAndLimits() throws Exception {
        Channel channel = confirming();
        String dead = queue(channel);
        String key = queue(channel, letters(dead, "x-max-priority", 5, "x-max-length", 2));
        // The head goes where there are too many: that is the highest.
        mixed(channel, key, "low", 0, "high", 5, "mid", 2);
        until("the dead letter", () -> channel.messageCount(dead) == 1);
        equal(List.of(take(channel, dead), take(channel, key)), List.of(List.of("high"), List.of("mid", "low")));
    }

    private static void quorumPriorities() throws Exception {
        since("quorum queues know priorities since 4.0, strictly since 4.3");
        Channel channel = confirming();
        String key = durable(channel, Map.of("x-queue-type", "quorum"));
        mixed(channel, key, "none", null, "0", 0, "3", 3, "9", 9, "1", 1, "3 again", 3, "40", 40, "31", 31);
        // No priority counts as 4, and what is above 31 as that.
        equal(take(channel, key), List.of("40", "31", "9", "none", "3", "3 again", "1", "0"));
    }

    private static void consumerPriorities() throws Exception {
        Channel channel = channel();
        String key = queue(channel);
        channel.basicQos(2);
        Found low = consume(channel, key, Map.of("x-priority", -1));
        Found none = consume(channel, key, Map.of());
        Found high = consume(channel, key, Map.of("x-priority", 5));
        send(channel, key, "0", "1", "2", "3", "4");
        until("all of them", () -> low.size() + none.size() + high.size() == 5);
        equal(List.of(high.texts(), none.texts(), low.texts()), List.of(List.of("0", "1"), List.of("2", "3"), List.of("4")));
        closes(channel.getConnection(), 406, "invalid arg 'x-priority' for queue '" + key + "' in vhost '/'",
            on -> consume(on, key, Map.of("x-priority", "high")));
    }

    private static void singleActive() throws Exception {
        Channel owner = channel();
        for (String type : List.of("classic", "quorum")) {
            String key = durable(owner, Map.of("x-single-active-consumer", true, "x-queue-type", type));
            Channel first = channel();
            Channel second = channel();
            Found one = consumer(first, key, false);
            Found two = consumer(second, key, false);
            send(owner, key, "a", "b", "c");
            until("all of them", () -> one.size() == 3);
            quiet();
            equal(two.size(), 0);
            first.basicAck(one.tagOf(1), false);
            first.getConnection().close();
            until("what is left", () -> two.size() == 2);
            equal(two.texts(), List.of("a", "c"));
            check(two.stream().allMatch(delivery -> delivery.getEnvelope().isRedeliver()), "not redelivered");
        }
    }

    private static void directReplies() throws Exception {
        Channel server = confirming();
        String key = queue(server);
        AtomicReference<String> replyTo = new AtomicReference<>();
        server.basicConsume(key, true, (tag, delivery) -> {
            AMQP.BasicProperties asked = delivery.getProperties();
            replyTo.set(asked.getReplyTo());
            String answer = new String(delivery.getBody(), java.nio.charset.StandardCharsets.UTF_8).toUpperCase(Locale.ROOT);
            server.basicPublish("", asked.getReplyTo(), with().correlationId(asked.getCorrelationId()).build(), bytes(answer));
        }, tag -> { });
        Channel channel = channel();
        // Without a queue of its own the client asks for direct replies.
        RpcClient client = new RpcClient(new RpcClientParams().channel(channel).exchange("").routingKey(key).timeout(SECONDS * 1000));
        for (String word : List.of("one", "two")) {
            equal(client.stringCall(word), word.toUpperCase(Locale.ROOT));
        }
        check(replyTo.get().startsWith(PSEUDO + "."), replyTo);
        closes(channel.getConnection(), 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", on -> consumer(on, PSEUDO, false));
        closes(channel.getConnection(), 406, "PRECONDITION_FAILED - fast reply consumer does not exist",
            on -> on.basicPublish("", key, with().replyTo(PSEUDO).build(), bytes("")));
    }

    private static void wrongArguments() throws Exception {
        Connection connection = connect(factory());
        for (List<Object> each : List.of(
            List.<Object>of("x-message-ttl", "5", "\"expected integer, got longstr\""), List.<Object>of("x-message-ttl", -1, "{value_negative,-1}"),
            List.<Object>of("x-expires", 0, "{value_zero,0}"), List.<Object>of("x-max-length", -1, "{value_negative,-1}"),
            List.<Object>of("x-overflow", "burst", "invalid_overflow"))) {
            String key = name("wrong");
            closes(connection, 406, "PRECONDITION_FAILED - invalid arg '" + each.get(0) + "' for queue '" + key + "' in vhost '/': " + each.get(2),
                on -> on.queueDeclare(key, false, true, false, Map.of((String) each.get(0), each.get(1))));
        }
    }

    // Policies and virtual hosts

    static void manage(String method, String path, String body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + API + "/api/" + path))
            .header("authorization", "Basic " + Base64.getEncoder().encodeToString(bytes("guest:guest")))
            .header("content-type", "application/json").version(HttpClient.Version.HTTP_1_1).method(method, HttpRequest.BodyPublishers.ofString(body)).build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        check(answer.statusCode() / 100 == 2, method + " " + path + ": " + answer.statusCode() + " " + answer.body());
    }

    static void needsApi() {
        if (API == null) {
            throw new Skip("set API to the address of the management API");
        }
    }

    private static void policies() throws Exception {
        needsApi();
        Channel channel = confirming();
        String dead = queue(channel);
        String key = queue(channel);
        send(channel, key, "0", "1", "2", "3", "4");
        String at = "policies/%2F/" + key;
        String policy = "{\"pattern\":\"^" + key + "$\",\"apply-to\":\"queues\",\"definition\":{\"dead-letter-exchange\":\"\","
            + "\"dead-letter-routing-key\":\"" + dead + "\",%s}}";
        LEFT.add(cleaner -> manageQuietly("DELETE", at));
        manage("PUT", at, String.format(policy, "\"max-length\":2"));
        until("the letters", () -> channel.messageCount(dead) == 3);
        equal(channel.messageCount(key), 2L);
        manage("PUT", at, String.format(policy, "\"max-length\":2,\"overflow\":\"reject-publish\""));
        until("it refuses", () -> !put(channel, key, "refused"));
        manage("PUT", at, String.format(policy, "\"max-length\":9"));
        until("room again", () -> put(channel, key, "taken"));
        manage("DELETE", at, "");
        equal(take(channel, key).subList(0, 2), List.of("3", "4"));
    }

    static boolean manageQuietly(String method, String path) throws Exception {
        try {
            manage(method, path, "");
            return true;
        } catch (AssertionError refused) {
            return false;
        }
    }

    private static void virtualHosts() throws Exception {
        needsApi();
        String vhost = name("team");
        manage("PUT", "vhosts/" + vhost, "{}");
        LEFT.add(cleaner -> manageQuietly("DELETE", "vhosts/" + vhost));
        ConnectionFactory factory = factory();
        factory.setVirtualHost(vhost);
        Connection connection = connect(factory);
        Channel there = connection.createChannel();
        there.confirmSelect();
        String key = there.queueDeclare(name("q"), true, false, false, null).getQueue();
        put(there, key, "theirs");
        closes(channel().getConnection(), 404, "no queue '" + key + "' in vhost '/'", on -> on.queueDeclarePassive(key));
        closes(connection, 404, "no queue 'nothing' in vhost '" + vhost + "'", on -> on.queueDeclarePassive("nothing"));
        equal(take(there, key), List.of("theirs"));
        CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
        connection.addShutdownListener(closed::complete);
        manage("DELETE", "vhosts/" + vhost, "");
        AMQP.Connection.Close close = (AMQP.Connection.Close) closed.get(SECONDS, TimeUnit.SECONDS).getReason();
        equal(close.getReplyCode(), 320);
        String words = "CONNECTION_FORCED - vhost '" + vhost + "' is ";
        check(close.getReplyText().equals(words + "deleted") || OLD_RABBITMQ && close.getReplyText().equals(words + "down"), close);
    }
}
