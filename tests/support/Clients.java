import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.message.StreamsGroupHeartbeatRequestData;
import org.apache.kafka.common.message.StreamsGroupHeartbeatResponseData;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.requests.RequestHeader;
import org.apache.kafka.common.requests.ResponseHeader;
import org.apache.kafka.common.requests.StreamsGroupHeartbeatRequest;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's own clients, for tests: reads orders from standard input, one a line, its words parted by tabs; answers each with
 * lines, the last of which is "." or "!" and why it failed.
 */
public final class Clients {
    private static final Duration DEADLINE = Duration.ofSeconds(50);
    private static final Map<String, Admin> ADMINS = new HashMap<>();
    private static final Map<String, Member> MEMBERS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        // Whatever a library prints is no answer.
        System.setOut(System.err);
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = orders.readLine(); line != null; line = orders.readLine()) {
            try {
                obey(line.split("\t", -1), answers);
                answers.println(".");
            } catch (Throwable failure) {
                failure.printStackTrace();
                answers.println("!" + String.valueOf(failure).replace('\n', ' '));
            }
            answers.flush();
        }
        System.exit(0);
    }

    private static void obey(String[] words, PrintStream answers) throws Exception {
        String brokers = words[1];
        switch (words[0]) {
            case "fill" -> fill(brokers, words[2], Integer.parseInt(words[3]), Integer.parseInt(words[4]));
            case "consume" -> consume(consumer(brokers, words[2], words[3], words[4]), words[5], pairs(words, 6), answers);
            case "commit" -> commit(brokers, words[2], pairs(words, 4), words[3]);
            case "offsets" -> offsets(brokers, Arrays.asList(words).subList(2, words.length), answers);
            case "groups" -> {
                for (GroupListing group : admin(brokers).listGroups().all().get()) {
                    answers.println(group.groupId() + "\t" + group.type().map(Object::toString).orElse("?"));
                }
            }
            case "join" -> MEMBERS.put(words[2], new Member(consumer(brokers, words[2], words[3], "read_committed"), words[4]));
            case "leave" -> MEMBERS.remove(words[2]).leave();
            case "share" -> share(brokers, words[2], words[3]);
            case "streams" -> streams(brokers, words[2], words[3], Integer.parseInt(words[4]));
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    /** Reads "topic", "partition", "offset" and again, from a word on. */
    private static Map<TopicPartition, Long> pairs(String[] words, int from) {
        Map<TopicPartition, Long> pairs = new TreeMap<>(
            (a, b) -> a.topic().equals(b.topic()) ? a.partition() - b.partition() : a.topic().compareTo(b.topic()));
        for (int at = from; at + 2 < words.length; at += 3) {
            pairs.put(new TopicPartition(words[at], Integer.parseInt(words[at + 1])), Long.parseLong(words[at + 2]));
        }
        return pairs;
    }

    private static Properties properties(String brokers) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", brokers);
        return properties;
    }

    private static Admin admin(String brokers) {
        return ADMINS.computeIfAbsent(brokers, at -> Admin.create(properties(at)));
    }

    private static KafkaConsumer<String, String> consumer(String brokers, String group, String protocol, String isolation) {
        Properties properties = properties(brokers);
        properties.put("group.id", group);
        properties.put("group.protocol", protocol);
        properties.put("isolation.level", isolation);
        properties.put("enable.auto.commit", "false");
        properties.put("auto.offset.reset", "earliest");
        properties.put("fetch.max.wait.ms", "50");
        properties.put("max.poll.records", "100000");
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    /** Writes so many tiny records to a partition. */
    private static void fill(String brokers, String topic, int partition, int count) throws Exception {
        Properties properties = properties(brokers);
        properties.put("batch.size", "900000");
        properties.put("linger.ms", "50");
        properties.put("buffer.memory", "100000000");
        // It would say at its end how many were refused; the test compares the partition's end.
        try (var producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            for (int number = 0; number < count; number++) {
                producer.send(new ProducerRecord<>(topic, partition, null, "n"));
            }
        }
    }

    /**
     * Reads as a member of a group, alone in it: all to the present ends, but in each partition that has a stop nothing from that
     * offset on. Prints what it has read, commits behind the last of each partition, leaves.
     */
    private static void consume(
        KafkaConsumer<String, String> consumer, String topics, Map<TopicPartition, Long> stops, PrintStream answers) {
        try (consumer) {
            int partitions = 0;
            List<String> names = Arrays.asList(topics.split(","));
            for (String topic : names) {
                partitions += consumer.partitionsFor(topic).size();
            }
            consumer.subscribe(names);
            Map<TopicPartition, OffsetAndMetadata> read = new HashMap<>();
            long deadline = System.nanoTime() + DEADLINE.toNanos();
            Map<TopicPartition, Long> wanted = null;
            while (wanted == null || !isThere(consumer, wanted)) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("not at " + wanted + " of " + consumer.assignment() + ", after " + read);
                }
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(50))) {
                    TopicPartition from = new TopicPartition(record.topic(), record.partition());
                    if (record.offset() < stops.getOrDefault(from, Long.MAX_VALUE)) {
                        answers.println(record.topic() + "\t" + record.partition() + "\t" + record.offset() + "\t" + record.value());
                        read.put(from, new OffsetAndMetadata(record.offset() + 1));
                    }
                }
                if (wanted == null && consumer.assignment().size() == partitions) {
                    wanted = new HashMap<>(consumer.endOffsets(consumer.assignment()));
                    wanted.replaceAll((partition, end) -> Math.min(end, stops.getOrDefault(partition, end)));
                }
            }
            consumer.commitSync(read);
        }
    }

    private static boolean isThere(KafkaConsumer<String, String> consumer, Map<TopicPartition, Long> wanted) {
        return wanted.entrySet().stream().allMatch(of -> consumer.position(of.getKey()) >= of.getValue());
    }

    /** Commits for a group without members; the metadata is so many bytes long. */
    private static void commit(String brokers, String group, Map<TopicPartition, Long> offsets, String bytes) throws Exception {
        List<Map<TopicPartition, OffsetAndMetadata>> pieces = new ArrayList<>();
        offsets.forEach((partition, offset) -> {
            // What one request may hold.
            if (pieces.isEmpty() || pieces.get(pieces.size() - 1).size() == 100) {
                pieces.add(new HashMap<>());
            }
            String metadata = (partition + " ").repeat(Integer.parseInt(bytes)).substring(0, Integer.parseInt(bytes));
            pieces.get(pieces.size() - 1).put(partition, new OffsetAndMetadata(offset, metadata));
        });
        for (Map<TopicPartition, OffsetAndMetadata> piece : pieces) {
            admin(brokers).alterConsumerGroupOffsets(group, piece).all().get();
        }
    }

    private static void offsets(String brokers, List<String> groups, PrintStream answers) throws Exception {
        Map<String, ListConsumerGroupOffsetsSpec> asked = new HashMap<>();
        groups.forEach(group -> asked.put(group, new ListConsumerGroupOffsetsSpec()));
        admin(brokers).listConsumerGroupOffsets(asked).all().get().forEach((group, offsets) -> offsets.forEach((partition, told) -> {
            if (told != null) {
                answers.println(String.join("\t", group, partition.topic(), "" + partition.partition(), "" + told.offset(), told.metadata()));
            }
        }));
    }

    /** A member that stays until it is told to leave. */
    private static final class Member {
        private final CountDownLatch ended = new CountDownLatch(1);
        private volatile boolean leaves;

        Member(KafkaConsumer<String, String> consumer, String topic) throws Exception {
            CountDownLatch joined = new CountDownLatch(1);
            Thread thread = new Thread(() -> {
                try (consumer) {
                    consumer.subscribe(List.of(topic));
                    while (!leaves) {
                        consumer.poll(Duration.ofMillis(50));
                        if (!consumer.assignment().isEmpty()) {
                            joined.countDown();
                        }
                    }
                } finally {
                    ended.countDown();
                }
            });
            thread.setDaemon(true);
            thread.start();
            if (!joined.await(DEADLINE.toSeconds(), TimeUnit.SECONDS)) {
                throw new IllegalStateException("it is given no partition");
            }
        }

        void leave() throws InterruptedException {
            leaves = true;
            ended.await();
        }
    }

    /** Makes a share group: a member comes and goes. */
    private static void share(String brokers, String group, String topic) throws Exception {
        Properties properties = properties(brokers);
        properties.put("group.id", group);
        try (var consumer = new KafkaShareConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = System.nanoTime() + DEADLINE.toNanos();
            while (admin(brokers).listGroups().all().get().stream().noneMatch(made -> made.groupId().equals(group))) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("there is no share group");
                }
                consumer.poll(Duration.ofMillis(50));
            }
        }
    }

    /** Joins a streams group (epoch 0) as its member "m", or leaves it (-1), as Kafka Streams does. */
    private static void streams(String brokers, String group, String topic, int epoch) throws Exception {
        StreamsGroupHeartbeatRequestData beat =
            new StreamsGroupHeartbeatRequestData().setGroupId(group).setMemberId("m").setMemberEpoch(epoch);
        if (epoch == 0) {
            var part = new StreamsGroupHeartbeatRequestData.Subtopology().setSubtopologyId("0").setSourceTopics(List.of(topic));
            beat.setRebalanceTimeoutMs(60_000).setProcessId("p").setClientTags(List.of());
            beat.setActiveTasks(List.of()).setStandbyTasks(List.of()).setWarmupTasks(List.of());
            beat.setTopology(new StreamsGroupHeartbeatRequestData.Topology().setEpoch(0).setSubtopologies(List.of(part)));
        }
        // Finds the coordinator, and so has it made.
        admin(brokers).listConsumerGroupOffsets(group).all().get();
        long deadline = System.nanoTime() + DEADLINE.toNanos();
        StreamsGroupHeartbeatResponseData answer = ask(brokers, beat);
        // It loads, or is not there yet.
        while (List.of(14, 15, 16).contains((int) answer.errorCode()) && System.nanoTime() < deadline) {
            Thread.sleep(50);
            answer = ask(brokers, beat);
        }
        if (answer.errorCode() != 0) {
            throw new IllegalStateException(answer.toString());
        }
    }

    private static StreamsGroupHeartbeatResponseData ask(String brokers, StreamsGroupHeartbeatRequestData beat) throws Exception {
        short version = 0;
        RequestHeader header = new RequestHeader(ApiKeys.STREAMS_GROUP_HEARTBEAT, version, "tests", 1);
        ByteBuffer sent = new StreamsGroupHeartbeatRequest.Builder(beat).build(version).serializeWithHeader(header);
        String[] address = brokers.split(",")[0].split(":");
        try (Socket broker = new Socket(address[0], Integer.parseInt(address[1]))) {
            var out = Channels.newChannel(broker.getOutputStream());
            out.write(ByteBuffer.allocate(4).putInt(0, sent.remaining()));
            out.write(sent);
            DataInputStream in = new DataInputStream(broker.getInputStream());
            ByteBuffer answer = ByteBuffer.wrap(in.readNBytes(in.readInt()));
            ResponseHeader.parse(answer, ApiKeys.STREAMS_GROUP_HEARTBEAT.responseHeaderVersion(version));
            return new StreamsGroupHeartbeatResponseData(new ByteBufferAccessor(answer), version);
        }
    }
}
