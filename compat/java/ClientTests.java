import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

/** The Java client against a broker, at the newest versions it speaks. Prints one line for each test. */
public final class ClientTests {
    private static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    private static final String RUN = System.getenv("RUN");
    private static final Duration PATIENCE = Duration.ofSeconds(20);
    private static int names;
    private static Admin admin;

    interface Body {
        void run() throws Exception;
    }

    public static void main(String[] only) throws Exception {
        Map<String, Body> tests = new LinkedHashMap<>();
        tests.put("java-topics", ClientTests::topics);
        tests.put("java-topic-configs-in-answer", ClientTests::topicConfigsInAnswer);
        tests.put("java-produce-consume", ClientTests::produceConsume);
        for (String codec : List.of("gzip", "snappy", "lz4", "zstd")) {
            tests.put("java-compression-" + codec, () -> compression(codec));
        }
        tests.put("java-headers-timestamps", ClientTests::headersTimestamps);
        tests.put("java-many-partitions", ClientTests::manyPartitions);
        tests.put("java-too-large", ClientTests::tooLarge);
        tests.put("java-offsets", ClientTests::offsets);
        tests.put("java-seek-reset", ClientTests::seekReset);
        tests.put("java-group-rebalance", ClientTests::groupRebalance);
        tests.put("java-commit-metadata", ClientTests::commitMetadata);
        tests.put("java-static-members", ClientTests::staticMembers);
        tests.put("java-group-admin", ClientTests::groupAdmin);
        tests.put("java-cluster", ClientTests::cluster);
        tests.put("java-producers-described", ClientTests::producersDescribed);
        tests.put("java-wake", ClientTests::wake);
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP, "default.api.timeout.ms", "20000", "request.timeout.ms", "10000"));
        for (Map.Entry<String, Body> test : tests.entrySet()) {
            if (only.length > 0 && !Arrays.asList(only).contains(test.getKey())) {
                continue;
            }
            try {
                test.getValue().run();
                System.out.println("ok " + test.getKey());
            } catch (Throwable error) {
                Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
                String line = Arrays.stream(error.getStackTrace())
                    .filter(frame -> frame.getClassName().startsWith("ClientTests"))
                    .map(frame -> " line " + frame.getLineNumber()).findFirst().orElse("");
                System.out.println("not ok " + test.getKey() + ":" + line + " " + cause);
            }
        }
        admin.close(Duration.ofSeconds(5));
        System.out.println("done");
        System.exit(0);
    }

    // Helpers

    private static String name(String stem) {
        names++;
        return RUN + "-j" + stem + "-" + names;
    }

    private static void check(boolean condition, Object what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    private static String topic(String stem, int partitions, Map<String, String> configs) throws Exception {
        String made = name(stem);
        admin.createTopics(List.of(new NewTopic(made, partitions, (short) 1).configs(configs))).all().get();
        until("the topic", () -> {
            try {
                return admin.describeTopics(List.of(made)).allTopicNames().get().get(made).partitions().size() == partitions;
            } catch (ExecutionException notYet) {
                return false;
            }
        });
        return made;
    }

    private static String topic(String stem) throws Exception {
        return topic(stem, 1, Map.of());
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    private static void until(String what, Condition condition) throws Exception {
        long end = System.nanoTime() + Duration.ofSeconds(30).toNanos();
        while (!condition.holds()) {
            check(System.nanoTime() < end, "not within 30 s: " + what);
            Thread.sleep(50);
        }
    }

    private static KafkaProducer<String, String> producer(String... settings) {
        Properties all = properties(settings);
        all.putIfAbsent("delivery.timeout.ms", "20000");
        all.putIfAbsent("request.timeout.ms", "10000");
        return new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String... settings) {
        Properties all = properties(settings);
        all.putIfAbsent("auto.offset.reset", "earliest");
        all.putIfAbsent("enable.auto.commit", "false");
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    private static Properties properties(String... settings) {
        Properties all = new Properties();
        all.put("bootstrap.servers", BOOTSTRAP);
        for (int i = 0; i < settings.length; i += 2) {
            all.put(settings[i], settings[i + 1]);
        }
        return all;
    }

    private static void send(String topic, int count, String... settings) throws Exception {
        try (KafkaProducer<String, String> producer = producer(settings)) {
            List<Future<RecordMetadata>> waiting = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                waiting.add(producer.send(new ProducerRecord<>(topic, 0, null, "value " + i)));
            }
            for (int i = 0; i < count; i++) {
                check(waiting.get(i).get().offset() == i, "offset " + waiting.get(i).get().offset() + ", not " + i);
            }
        }
    }

    private static List<ConsumerRecord<String, String>> take(Consumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (found.size() < count && System.nanoTime() < end) {
            consumer.poll(Duration.ofMillis(200)).forEach(found::add);
        }
        check(found.size() >= count, found.size() + " records of " + count);
        return found;
    }

    private static List<ConsumerRecord<String, String>> readAll(String topic, int count) {
        try (KafkaConsumer<String, String> consumer = consumer()) {
            TopicPartition where = new TopicPartition(topic, 0);
            consumer.assign(List.of(where));
            consumer.seekToBeginning(List.of(where));
            return take(consumer, count);
        }
    }

    private static <E extends Throwable> void fails(Class<E> with, Future<?> future) throws Exception {
        try {
            future.get();
        } catch (ExecutionException error) {
            check(with.isInstance(error.getCause()), "failed with " + error.getCause());
            return;
        }
        throw new AssertionError("did not fail with " + with.getSimpleName());
    }

    // Tests

    private static void topics() throws Exception {
        String made = topic("topics", 3, Map.of());
        TopicDescription found = admin.describeTopics(List.of(made)).allTopicNames().get().get(made);
        check(found.partitions().get(2).leader().id() == 1, found);
        check(admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(found.topicId())))
            .allTopicIds().get().size() == 1, "not found by its id");
        fails(TopicExistsException.class, admin.createTopics(List.of(new NewTopic(made, 1, (short) 1))).all());
        admin.createPartitions(Map.of(made, NewPartitions.increaseTo(4))).all().get();
        fails(InvalidPartitionsException.class, admin.createPartitions(Map.of(made, NewPartitions.increaseTo(2))).all());
        admin.deleteTopics(List.of(made)).all().get();
        until("the topic is gone", () -> !admin.listTopics().names().get().contains(made));
        fails(UnknownTopicOrPartitionException.class, admin.deleteTopics(List.of(made)).all());
    }

    private static void topicConfigsInAnswer() throws Exception {
        String made = name("answer");
        CreateTopicsResult result = admin.createTopics(List.of(new NewTopic(made, Optional.empty(), Optional.empty())
            .configs(Map.of("retention.ms", "3600000"))));
        check(result.numPartitions(made).get() == 1, "partitions");
        check(result.config(made).get().get("retention.ms").value().equals("3600000"), "config");
        check(result.topicId(made).get() != null, "id");
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, made);
        ConfigEntry entry = admin.describeConfigs(List.of(resource),
            new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true))
            .all().get().get(resource).get("retention.ms");
        check(entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, entry);
        check(!entry.synonyms().isEmpty() && entry.type() == ConfigEntry.ConfigType.LONG, entry);
        check(entry.documentation() != null && !entry.documentation().isEmpty(), "documentation");
    }

    private static void produceConsume() throws Exception {
        // The Java producer is idempotent and waits for all by default.
        String made = topic("basic");
        send(made, 20000);
        List<ConsumerRecord<String, String>> found = readAll(made, 20000);
        for (int i = 0; i < 20000; i++) {
            check(found.get(i).offset() == i && found.get(i).value().equals("value " + i), found.get(i));
        }
    }

    private static void compression(String codec) throws Exception {
        String made = topic(codec);
        send(made, 5000, "compression.type", codec, "linger.ms", "20");
        List<ConsumerRecord<String, String>> found = readAll(made, 5000);
        check(found.get(4999).value().equals("value 4999"), found.get(4999));
    }

    private static void headersTimestamps() throws Exception {
        String made = topic("parts");
        try (KafkaProducer<String, String> producer = producer()) {
            ProducerRecord<String, String> record = new ProducerRecord<>(made, 0, 1_600_000_000_123L, "k", "v",
                List.of(new RecordHeader("a", "1".getBytes(StandardCharsets.UTF_8)), new RecordHeader("n", (byte[]) null)));
            producer.send(record).get();
            producer.send(new ProducerRecord<>(made, 0, "gone", null)).get();
        }
        List<ConsumerRecord<String, String>> found = readAll(made, 2);
        check(found.get(0).timestamp() == 1_600_000_000_123L, found.get(0));
        check(found.get(0).headers().toArray().length == 2, found.get(0));
        check(found.get(0).leaderEpoch().isPresent(), "no leader epoch");
        check(found.get(1).value() == null && found.get(1).key().equals("gone"), found.get(1));
    }

    private static void manyPartitions() throws Exception {
        String made = topic("wide", 64, Map.of());
        try (KafkaProducer<String, String> producer = producer("linger.ms", "10")) {
            for (int i = 0; i < 6400; i++) {
                producer.send(new ProducerRecord<>(made, i % 64, null, "v" + i));
            }
            producer.flush();
        }
        try (KafkaConsumer<String, String> consumer = consumer()) {
            List<TopicPartition> all = new ArrayList<>();
            for (int i = 0; i < 64; i++) {
                all.add(new TopicPartition(made, i));
            }
            consumer.assign(all);
            check(take(consumer, 6400).size() == 6400, "count");
        }
    }

    private static void tooLarge() throws Exception {
        String made = topic("small", 1, Map.of("max.message.bytes", "2000"));
        try (KafkaProducer<String, String> producer = producer()) {
            fails(RecordTooLargeException.class, producer.send(new ProducerRecord<>(made, "x".repeat(5000))));
            producer.send(new ProducerRecord<>(made, "fits")).get();
        }
    }

    private static void offsets() throws Exception {
        String made = topic("offsets");
        TopicPartition where = new TopicPartition(made, 0);
        try (KafkaProducer<String, String> producer = producer()) {
            long[] times = {0, 4000, 2000, 1000, 3000};
            for (long time : times) {
                producer.send(new ProducerRecord<>(made, 0, 1_700_000_000_000L + time, null, "x"));
            }
        }
        Map<OffsetSpec, Long> expected = new HashMap<>();
        expected.put(OffsetSpec.earliest(), 0L);
        expected.put(OffsetSpec.latest(), 5L);
        expected.put(OffsetSpec.maxTimestamp(), 1L);
        expected.put(OffsetSpec.forTimestamp(1_700_000_001_500L), 1L);
        expected.put(OffsetSpec.forTimestamp(1_700_000_005_000L), -1L);
        for (Map.Entry<OffsetSpec, Long> ask : expected.entrySet()) {
            long found = admin.listOffsets(Map.of(where, ask.getKey())).partitionResult(where).get().offset();
            check(found == ask.getValue(), ask.getKey().getClass().getSimpleName() + ": " + found);
        }
        admin.deleteRecords(Map.of(where, RecordsToDelete.beforeOffset(3))).all().get();
        check(admin.listOffsets(Map.of(where, OffsetSpec.earliest())).partitionResult(where).get().offset() == 3, "start");
        fails(org.apache.kafka.common.errors.OffsetOutOfRangeException.class, admin.deleteRecords(Map.of(where, RecordsToDelete.beforeOffset(99))).all());
    }

    private static void seekReset() throws Exception {
        String made = topic("seek");
        send(made, 100);
        TopicPartition where = new TopicPartition(made, 0);
        try (KafkaConsumer<String, String> consumer = consumer("max.poll.records", "10")) {
            consumer.assign(List.of(where));
            consumer.seek(where, new OffsetAndMetadata(42, Optional.of(0), ""));
            check(take(consumer, 1).get(0).offset() == 42, "seek");
            consumer.seek(where, 5000);
            check(take(consumer, 1).get(0).offset() == 0, "reset to the start");
            consumer.seekToEnd(List.of(where));
            check(consumer.position(where) == 100, consumer.position(where));
        }
        try (KafkaConsumer<String, String> consumer = consumer("auto.offset.reset", "none")) {
            consumer.assign(List.of(where));
            consumer.seek(where, 5000);
            try {
                take(consumer, 1);
            } catch (org.apache.kafka.clients.consumer.OffsetOutOfRangeException expected) {
                return;
            }
            throw new AssertionError("out of range was not told");
        }
    }

    private static void groupRebalance() throws Exception {
        String made = topic("shared", 4, Map.of());
        String group = name("group");
        for (String assignor : List.of("org.apache.kafka.clients.consumer.RangeAssignor",
                "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")) {
            String[] settings = {"group.id", group + assignor.length(), "partition.assignment.strategy", assignor,
                "heartbeat.interval.ms", "500"};
            try (KafkaConsumer<String, String> one = consumer(settings); KafkaConsumer<String, String> two = consumer(settings)) {
                one.subscribe(List.of(made));
                until("all at one", () -> polled(one) == 4);
                two.subscribe(List.of(made));
                until("two each", () -> polled(one) + 10 * polled(two) == 22);
                two.unsubscribe();
                until("all at one again", () -> polled(one) == 4);
            }
        }
    }

    private static int polled(Consumer<?, ?> consumer) {
        consumer.poll(Duration.ofMillis(50));
        return consumer.assignment().size();
    }

    private static void commitMetadata() throws Exception {
        String made = topic("commit");
        String group = name("group");
        send(made, 10);
        TopicPartition where = new TopicPartition(made, 0);
        try (KafkaConsumer<String, String> consumer = consumer("group.id", group)) {
            consumer.subscribe(List.of(made));
            take(consumer, 4);
            consumer.commitSync(Map.of(where, new OffsetAndMetadata(4, Optional.of(0), "so far")));
            OffsetAndMetadata found = consumer.committed(Set.of(where)).get(where);
            check(found.offset() == 4 && found.metadata().equals("so far"), found);
            check(found.leaderEpoch().equals(Optional.of(0)), "leader epoch " + found.leaderEpoch());
        }
        try (KafkaConsumer<String, String> consumer = consumer("group.id", group)) {
            consumer.subscribe(List.of(made));
            check(take(consumer, 1).get(0).offset() == 4, "did not go on where it was");
        }
    }

    private static void staticMembers() throws Exception {
        String made = topic("static", 2, Map.of());
        String group = name("group");
        String[] settings = {"group.id", group, "group.instance.id", "i1"};
        AtomicInteger assigned = new AtomicInteger();
        ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            }

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                assigned.incrementAndGet();
            }
        };
        for (int round = 0; round < 2; round++) {
            try (KafkaConsumer<String, String> consumer = consumer(settings)) {
                consumer.subscribe(List.of(made), listener);
                until("two partitions", () -> polled(consumer) == 2);
            }
        }
        check(assigned.get() == 2, assigned);
        admin.removeMembersFromConsumerGroup(group,
            new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("i1")))).all().get();
        until("an empty group", () -> state(group) == GroupState.EMPTY);
    }

    private static GroupState state(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState();
    }

    private static void groupAdmin() throws Exception {
        String made = topic("group-admin");
        String group = name("group");
        send(made, 5);
        TopicPartition where = new TopicPartition(made, 0);
        admin.alterConsumerGroupOffsets(group, Map.of(where, new OffsetAndMetadata(3))).all().get();
        check(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(where).offset() == 3, "offset");
        try (KafkaConsumer<String, String> consumer = consumer("group.id", group)) {
            consumer.subscribe(List.of(made));
            check(take(consumer, 2).get(0).offset() == 3, "first offset");
            check(state(group) == GroupState.STABLE, state(group));
            fails(GroupNotEmptyException.class, admin.deleteConsumerGroups(List.of(group)).all());
        }
        until("an empty group", () -> state(group) == GroupState.EMPTY);
        check(admin.listGroups().all().get().stream().anyMatch(found -> found.groupId().equals(group)), "not listed");
        admin.deleteConsumerGroupOffsets(group, Set.of(where)).all().get();
        check(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(where) == null, "still there");
        admin.deleteConsumerGroups(List.of(group)).all().get();
        fails(GroupIdNotFoundException.class, admin.deleteConsumerGroups(List.of(group)).all());
        fails(GroupIdNotFoundException.class, admin.describeConsumerGroups(List.of(group)).all());
    }

    private static void cluster() throws Exception {
        DescribeClusterResult found = admin.describeCluster();
        check(found.nodes().get().size() == 1 && found.controller().get().id() == 1, found.nodes().get());
        check(!found.clusterId().get().isEmpty(), "cluster id");
        check(admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1).size() == 1, "log dirs");
        check(admin.listPartitionReassignments().reassignments().get().isEmpty(), "reassignments");
    }

    private static void producersDescribed() throws Exception {
        String made = topic("producers");
        TopicPartition where = new TopicPartition(made, 0);
        try (KafkaProducer<String, String> producer = producer()) {
            producer.send(new ProducerRecord<>(made, 0, null, "x")).get();
            producer.send(new ProducerRecord<>(made, 0, null, "y")).get();
            var active = admin.describeProducers(List.of(where)).partitionResult(where).get().activeProducers();
            check(active.size() == 1 && active.get(0).lastSequence() == 1, active);
        }
    }

    private static void wake() throws Exception {
        String made = topic("wake");
        TopicPartition where = new TopicPartition(made, 0);
        try (KafkaConsumer<String, String> consumer = consumer("fetch.max.wait.ms", "5000");
                KafkaProducer<String, String> producer = producer("linger.ms", "0")) {
            consumer.assign(List.of(where));
            consumer.seekToBeginning(List.of(where));
            long[] millis = new long[20];
            for (int i = 0; i < millis.length; i++) {
                long began = System.nanoTime();
                producer.send(new ProducerRecord<>(made, 0, null, "x"));
                take(consumer, 1);
                millis[i] = (System.nanoTime() - began) / 1_000_000;
            }
            Arrays.sort(millis);
            check(millis[10] < 300, "median " + millis[10] + " ms");
        }
    }
}
