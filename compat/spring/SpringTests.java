import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.springframework.amqp.AmqpException;
import org.springframework.amqp.AmqpRejectAndDontRequeueException;
import org.springframework.amqp.core.*;
import org.springframework.amqp.rabbit.annotation.*;
import org.springframework.amqp.rabbit.config.RetryInterceptorBuilder;
import org.springframework.amqp.rabbit.config.SimpleRabbitListenerContainerFactory;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.AbstractMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.DirectMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.amqp.rabbit.retry.RejectAndDontRequeueRecoverer;
import org.springframework.amqp.rabbit.retry.RepublishMessageRecoverer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** Spring AMQP against a broker, as applications set it up. Prints one line for each test. */
public final class SpringTests {
    private static final String[] BOOTSTRAP = System.getenv("BOOTSTRAP").split(":");
    private static final String RUN = System.getenv("RUN");
    private static final int SECONDS = 20;
    /** Whatever a test opens is closed behind it, also when it fails; its queues and exchanges are deleted. */
    private static final Deque<AutoCloseable> OPEN = new ArrayDeque<>();
    private static int names;

    interface Body {
        void run() throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    public static void main(String[] only) {
        Map<String, Body> tests = new LinkedHashMap<>();
        tests.put("publishes-are-confirmed-and-returned", SpringTests::confirms);
        tests.put("what-a-full-queue-refuses-is-nacked", SpringTests::refusals);
        tests.put("listeners-retry-and-give-up-to-a-dead-letter-queue", SpringTests::retries);
        tests.put("what-cannot-be-worked-on-is-republished-with-its-error", SpringTests::republishing);
        tests.put("a-listener-that-refuses-retries-through-a-queue-that-waits", SpringTests::retryQueue);
        tests.put("listeners-share-work-in-both-containers", SpringTests::sharing);
        tests.put("batches-are-acknowledged-together", SpringTests::batches);
        tests.put("annotated-listeners-declare-and-answer", SpringTests::annotated);
        tests.put("requests-are-answered-directly", SpringTests::requests);
        tests.put("transactions-commit-and-roll-back", SpringTests::transactions);
        tests.put("listeners-come-back-when-their-queue-does", SpringTests::recovery);
        for (Map.Entry<String, Body> test : tests.entrySet()) {
            if (only.length == 0 || Arrays.asList(only).contains(test.getKey())) {
                run(test.getKey(), test.getValue());
            }
        }
        System.out.println("done");
        System.exit(0);
    }

    private static void run(String title, Body body) {
        FutureTask<Void> task = new FutureTask<>(() -> {
            body.run();
            return null;
        });
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
        try {
            task.get(60, TimeUnit.SECONDS);
            System.out.println("ok " + title);
        } catch (Throwable thrown) {
            Throwable error = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
            String line = Arrays.stream(error.getStackTrace()).filter(frame -> frame.getClassName().startsWith("SpringTests"))
                .map(frame -> " line " + frame.getLineNumber()).findFirst().orElse("");
            String cause = error.getCause() == null ? "" : " because " + error.getCause();
            System.out.println("not ok " + title + ":" + line + " " + (error + cause).replaceAll("\\s+", " "));
        } finally {
            while (!OPEN.isEmpty()) {
                try {
                    OPEN.pop().close();
                } catch (Exception closing) {
                    System.err.println("cannot tidy: " + closing);
                }
            }
        }
    }

    // Helpers

    private static String name(String stem) {
        names++;
        return RUN + "-" + stem + "-" + names;
    }

    private static void check(boolean condition, Object what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    private static void equal(Object found, Object expected) {
        check(Objects.equals(found, expected), "found " + found + ", expected " + expected);
    }

    private static void until(String what, Condition condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS);
        while (!condition.holds()) {
            check(System.nanoTime() < end, "not within " + SECONDS + " s: " + what);
            Thread.sleep(20);
        }
    }

    private static CachingConnectionFactory connections() {
        CachingConnectionFactory factory = new CachingConnectionFactory(BOOTSTRAP[0], Integer.parseInt(BOOTSTRAP[1]));
        factory.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
        factory.setPublisherReturns(true);
        OPEN.push(factory::destroy);
        return factory;
    }

    private static RabbitTemplate template(CachingConnectionFactory connections) {
        RabbitTemplate template = new RabbitTemplate(connections);
        template.setMandatory(true);
        template.setReplyTimeout(SECONDS * 1000);
        return template;
    }

    private static String declare(CachingConnectionFactory connections, QueueBuilder queue) {
        RabbitAdmin admin = new RabbitAdmin(connections);
        String made = admin.declareQueue(queue.build());
        OPEN.push(() -> admin.deleteQueue(made));
        return made;
    }

    private static long count(CachingConnectionFactory connections, String queue) {
        return new RabbitAdmin(connections).getQueueInfo(queue).getMessageCount();
    }

    private static <T extends AbstractMessageListenerContainer> T started(T container, String queue, MessageListener listener) {
        container.setQueueNames(queue);
        container.setMessageListener(listener);
        container.afterPropertiesSet();
        OPEN.push(container::stop);
        container.start();
        return container;
    }

    private static String text(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    private static CorrelationData.Confirm send(RabbitTemplate template, String exchange, String key, Object body) throws Exception {
        CorrelationData correlation = new CorrelationData();
        template.convertAndSend(exchange, key, body, message -> message, correlation);
        return correlation.getFuture().get(SECONDS, TimeUnit.SECONDS);
    }

    // Publishing

    private static void confirms() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        String key = declare(connections, QueueBuilder.durable(name("q")).quorum());
        List<CorrelationData> sent = new ArrayList<>();
        for (int n = 0; n < 500; n++) {
            sent.add(new CorrelationData("" + n));
            template.convertAndSend("", key, "body " + n, message -> message, sent.get(n));
        }
        for (CorrelationData each : sent) {
            check(each.getFuture().get(SECONDS, TimeUnit.SECONDS).ack() && each.getReturned() == null, each);
        }
        equal(count(connections, key), 500L);
        // What nobody takes comes back, and is confirmed after that.
        CorrelationData lost = new CorrelationData("lost");
        template.convertAndSend("", name("nowhere"), "lost", message -> message, lost);
        check(lost.getFuture().get(SECONDS, TimeUnit.SECONDS).ack(), "refused");
        equal(List.of(lost.getReturned().getReplyCode(), lost.getReturned().getReplyText()), List.of(312, "NO_ROUTE"));
        // An exchange that is not there fails the channel, which the confirm tells.
        CorrelationData.Confirm nowhere = send(template, name("no-exchange"), "k", "x");
        check(!nowhere.ack(), nowhere);
    }

    private static void refusals() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        String key = declare(connections, QueueBuilder.durable(name("q")).maxLength(2).overflow(QueueBuilder.Overflow.rejectPublish));
        List<Boolean> taken = new ArrayList<>();
        for (String body : List.of("a", "b", "c")) {
            taken.add(send(template, "", key, body).ack());
        }
        equal(taken, List.of(true, true, false));
        equal(List.of(template.receiveAndConvert(key), template.receiveAndConvert(key)), List.of("a", "b"));
        equal(template.receive(key), null);
    }

    // Listeners

    private static void retries() throws Exception {
        CachingConnectionFactory connections = connections();
        String dead = declare(connections, QueueBuilder.durable(name("dead")));
        String key = declare(connections, QueueBuilder.durable(name("q")).quorum().deadLetterExchange("").deadLetterRoutingKey(dead));
        Map<String, Integer> tries = new ConcurrentHashMap<>();
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setPrefetchCount(5);
        container.setAdviceChain(RetryInterceptorBuilder.stateless().maxRetries(2).backOffOptions(20, 2.0, 100)
            .recoverer(new RejectAndDontRequeueRecoverer()).build());
        started(container, key, message -> {
            int count = tries.merge(text(message), 1, Integer::sum);
            if (text(message).equals("never") || text(message).equals("late") && count < 3) {
                throw new IllegalStateException("not yet");
            }
        });
        RabbitTemplate template = template(connections);
        for (String body : List.of("good", "late", "never")) {
            check(send(template, "", key, body).ack(), body);
        }
        until("the dead letter", () -> count(connections, dead) == 1);
        equal(tries, Map.of("good", 1, "late", 3, "never", 3));
        Message letter = template.receive(dead);
        Map<String, ?> death = letter.getMessageProperties().getXDeathHeader().get(0);
        equal(List.of(text(letter), death.get("reason"), death.get("queue"), death.get("count")), List.of("never", "rejected", key, 1L));
        until("nothing is left", () -> count(connections, key) == 0);
    }

    private static void republishing() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        String errors = declare(connections, QueueBuilder.durable(name("errors")));
        String key = declare(connections, QueueBuilder.durable(name("q")));
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setAdviceChain(RetryInterceptorBuilder.stateless().maxRetries(1).backOffOptions(10, 1.0, 10)
            .recoverer(new RepublishMessageRecoverer(template, "", errors)).build());
        started(container, key, message -> {
            throw new IllegalStateException("broken: " + text(message));
        });
        check(send(template, "", key, "x").ack(), "refused");
        Message error = template.receive(errors, SECONDS * 1000);
        Map<String, Object> headers = error.getMessageProperties().getHeaders();
        equal(headers.get(RepublishMessageRecoverer.X_EXCEPTION_MESSAGE), "broken: x");
        equal(List.of(text(error), headers.get(RepublishMessageRecoverer.X_ORIGINAL_ROUTING_KEY)), List.of("x", key));
    }

    private static void retryQueue() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        String key = name("q");
        String wait = declare(connections, QueueBuilder.durable(name("wait")).ttl(50).deadLetterExchange("").deadLetterRoutingKey(key));
        declare(connections, QueueBuilder.durable(key).deadLetterExchange("").deadLetterRoutingKey(wait));
        List<Long> counts = new CopyOnWriteArrayList<>();
        started(new DirectMessageListenerContainer(connections), key, message -> {
            List<Map<String, ?>> deaths = message.getMessageProperties().getXDeathHeader();
            long count = deaths == null ? 0 : deaths.stream().filter(each -> key.equals(each.get("queue")))
                .mapToLong(each -> (Long) each.get("count")).sum();
            counts.add(count);
            if (count < 3) {
                throw new AmqpRejectAndDontRequeueException("later");
            }
        });
        check(send(template, "", key, "x").ack(), "refused");
        until("four tries", () -> counts.size() == 4);
        equal(counts, List.of(0L, 1L, 2L, 3L));
        until("nothing is left", () -> count(connections, key) + count(connections, wait) == 0);
    }

    private static void sharing() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        SimpleMessageListenerContainer simple = new SimpleMessageListenerContainer(connections);
        simple.setConcurrentConsumers(3);
        simple.setPrefetchCount(10);
        DirectMessageListenerContainer direct = new DirectMessageListenerContainer(connections);
        direct.setConsumersPerQueue(3);
        direct.setMessagesPerAck(20);
        direct.setAckTimeout(200);
        for (AbstractMessageListenerContainer container : List.of(simple, direct)) {
            String key = declare(connections, QueueBuilder.durable(name("q")));
            Map<String, Integer> done = new ConcurrentHashMap<>();
            Set<String> threads = ConcurrentHashMap.newKeySet();
            started(container, key, message -> {
                done.merge(text(message), 1, Integer::sum);
                threads.add(message.getMessageProperties().getConsumerTag());
            });
            for (int n = 0; n < 500; n++) {
                template.convertAndSend(key, "" + n);
            }
            until("all work", () -> done.size() == 500);
            check(done.values().stream().allMatch(times -> times == 1), "some work was done twice");
            equal(threads.size(), 3);
            container.stop();
            equal(count(connections, key), 0L);
        }
    }

    private static void batches() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        String key = declare(connections, QueueBuilder.durable(name("q")));
        for (int n = 0; n < 25; n++) {
            template.convertAndSend(key, "" + n);
        }
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setConsumerBatchEnabled(true);
        container.setBatchSize(10);
        container.setPrefetchCount(10);
        container.setBatchReceiveTimeout(300L);
        List<Integer> sizes = new CopyOnWriteArrayList<>();
        started(container, key, new BatchMessageListener() {
            @Override
            public void onMessageBatch(List<Message> messages) {
                sizes.add(messages.size());
            }
        });
        until("three batches", () -> sizes.stream().mapToInt(Integer::intValue).sum() == 25);
        container.stop();
        equal(count(connections, key), 0L);
        check(sizes.contains(10), sizes);
    }

    /** As an application is written. */
    @Configuration
    @EnableRabbit
    static class Application {
        static final String QUEUE = RUN + "-annotated";
        static final String EXCHANGE = RUN + "-annotated-exchange";

        @Bean
        CachingConnectionFactory connectionFactory() {
            return new CachingConnectionFactory(BOOTSTRAP[0], Integer.parseInt(BOOTSTRAP[1]));
        }

        @Bean
        RabbitAdmin admin(CachingConnectionFactory connections) {
            return new RabbitAdmin(connections);
        }

        @Bean
        RabbitTemplate template(CachingConnectionFactory connections) {
            return SpringTests.template(connections);
        }

        @Bean
        SimpleRabbitListenerContainerFactory rabbitListenerContainerFactory(CachingConnectionFactory connections) {
            SimpleRabbitListenerContainerFactory factory = new SimpleRabbitListenerContainerFactory();
            factory.setConnectionFactory(connections);
            return factory;
        }

        @RabbitListener(bindings = @QueueBinding(value = @org.springframework.amqp.rabbit.annotation.Queue(value = "${annotated.queue}", durable = "true", autoDelete = "false",
            arguments = @Argument(name = "x-queue-type", value = "quorum")),
            exchange = @org.springframework.amqp.rabbit.annotation.Exchange(value = "${annotated.exchange}", type = "topic"),
            key = "orders.#"))
        String upper(String body) {
            return body.toUpperCase(Locale.ROOT);
        }
    }

    private static void annotated() throws Exception {
        System.setProperty("annotated.queue", Application.QUEUE);
        System.setProperty("annotated.exchange", Application.EXCHANGE);
        try (AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext(Application.class)) {
            RabbitAdmin admin = context.getBean(RabbitAdmin.class);
            RabbitTemplate template = context.getBean(RabbitTemplate.class);
            equal(template.convertSendAndReceive(Application.EXCHANGE, "orders.new", "one"), "ONE");
            equal(admin.getQueueInfo(Application.QUEUE).getConsumerCount(), 1);
            context.stop();
            admin.deleteQueue(Application.QUEUE);
            admin.deleteExchange(Application.EXCHANGE);
        }
    }

    // Requests, transactions, recovery

    private static void requests() throws Exception {
        CachingConnectionFactory connections = connections();
        String key = declare(connections, QueueBuilder.nonDurable(name("q")).autoDelete());
        RabbitTemplate answering = template(connections);
        Set<String> replies = ConcurrentHashMap.newKeySet();
        started(new DirectMessageListenerContainer(connections), key, message -> {
            MessageProperties asked = message.getMessageProperties();
            replies.add(asked.getReplyTo());
            answering.convertAndSend("", asked.getReplyTo(), text(message).toUpperCase(Locale.ROOT), answer -> {
                answer.getMessageProperties().setCorrelationId(asked.getCorrelationId());
                return answer;
            });
        });
        for (boolean direct : List.of(true, false)) {
            RabbitTemplate template = template(connections);
            // With a container of replies, or a consumer for each request.
            template.setUseDirectReplyToContainer(direct);
            OPEN.push(template::destroy);
            for (String word : List.of("one", "two", "three")) {
                equal(template.convertSendAndReceive("", key, word), word.toUpperCase(Locale.ROOT));
            }
        }
        check(replies.stream().allMatch(reply -> reply.startsWith("amq.rabbitmq.reply-to.")), replies);
    }

    private static void transactions() throws Exception {
        CachingConnectionFactory connections = new CachingConnectionFactory(BOOTSTRAP[0], Integer.parseInt(BOOTSTRAP[1]));
        OPEN.push(connections::destroy);
        String target = declare(connections, QueueBuilder.durable(name("target")));
        String dead = declare(connections, QueueBuilder.durable(name("dead")));
        String key = declare(connections, QueueBuilder.durable(name("q")).deadLetterExchange("").deadLetterRoutingKey(dead));
        RabbitTemplate template = new RabbitTemplate(connections);
        template.setChannelTransacted(true);
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setChannelTransacted(true);
        container.setDefaultRequeueRejected(false);
        // What the listener sends is of the transaction that acknowledges.
        started(container, key, message -> {
            template.convertAndSend(target, "from " + text(message));
            if (text(message).equals("bad")) {
                throw new IllegalStateException("rolled back");
            }
        });
        for (String body : List.of("one", "bad", "two")) {
            template.convertAndSend(key, body);
        }
        equal(text(template.receive(dead, SECONDS * 1000)), "bad");
        List<String> found = new ArrayList<>();
        for (int n = 0; n < 2; n++) {
            found.add(text(template.receive(target, SECONDS * 1000)));
        }
        equal(found, List.of("from one", "from two"));
        container.stop();
        equal(count(connections, target) + count(connections, key), 0L);
    }

    private static void recovery() throws Exception {
        CachingConnectionFactory connections = connections();
        RabbitTemplate template = template(connections);
        RabbitAdmin admin = new RabbitAdmin(connections);
        String key = name("q");
        declare(connections, QueueBuilder.durable(key));
        List<String> found = new CopyOnWriteArrayList<>();
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
        container.setMissingQueuesFatal(false);
        container.setRecoveryInterval(100);
        container.setFailedDeclarationRetryInterval(100);
        started(container, key, message -> found.add(text(message)));
        template.convertAndSend(key, "a");
        until("the first", () -> found.size() == 1);
        // The consumer is told; it looks for the queue until it is there again.
        admin.deleteQueue(key);
        Thread.sleep(200);
        admin.declareQueue(QueueBuilder.durable(key).build());
        template.convertAndSend(key, "b");
        until("the second", () -> found.size() == 2);
        // And when the connection is cut.
        connections.resetConnection();
        template.convertAndSend(key, "c");
        until("the third", () -> found.size() == 3);
        equal(found, List.of("a", "b", "c"));
    }
}
