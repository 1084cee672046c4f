import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.Scanner;
import java.util.concurrent.atomic.LongAdder;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Clients of a Kafka cluster that each have a producer and send one record an acknowledgement.
 *
 * Takes commands from its input, and answers each with a line, so that the virtual machine and the producers stay
 * warm from one measurement to the next:
 *
 *     brokers COUNT                              waits until there are so many; "done"
 *     create TOPIC REPLICAS [SETTING=VALUE ...]  of one partition; "done"
 *     measure TOPIC CLIENTS WARM_UP SECONDS      acknowledgements a second
 *     start TOPIC CLIENTS                        they send until "stop"; "done"
 *     stop                                       the longest time, in ms, without an acknowledgement to any of
 *                                                them, and to one of them
 *     leader TOPIC                               the broker that leads: its host and port
 *     replicas TOPIC COUNT                       waits until so many are in sync; "done"
 */
public class Meter {
    private static final int VALUE_LENGTH = 100;

    private final Map<String, Object> connection;
    private final Admin admin;
    private final List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
    private final Gaps gaps = new Gaps();
    private final List<Thread> started = new ArrayList<>();
    private volatile boolean ended;

    /** The longest times without an acknowledgement. */
    private static class Gaps {
        private final Map<Thread, Long> last = new HashMap<>();
        private long lastOfAll;
        private long longest;
        private long longestOfOne;

        synchronized void begin() {
            last.clear();
            lastOfAll = longest = longestOfOne = 0;
        }

        synchronized void note() {
            long now = System.nanoTime();
            Long before = last.put(Thread.currentThread(), now);
            if (before != null) {
                longestOfOne = Math.max(longestOfOne, now - before);
                longest = Math.max(longest, now - lastOfAll);
            }
            lastOfAll = now;
        }

        synchronized String text() {
            return longest / 1e6 + " " + longestOfOne / 1e6;
        }
    }

    private Meter(String servers) {
        connection = Map.of("bootstrap.servers", servers);
        admin = Admin.create(connection);
    }

    public static void main(String[] arguments) throws Exception {
        Meter meter = new Meter(arguments[0]);
        Scanner input = new Scanner(System.in);
        while (input.hasNextLine()) {
            System.out.println(meter.answer(input.nextLine().split(" ")));
        }
        System.exit(0);
    }

    private String answer(String[] command) throws Exception {
        switch (command[0]) {
            case "brokers":
                waitForBrokers(Integer.parseInt(command[1]));
                return "done";
            case "create":
                create(command);
                return "done";
            case "start":
                gaps.begin();
                start(command[1], Integer.parseInt(command[2]), gaps::note, started);
                return "done";
            case "stop":
                stop(started);
                return gaps.text();
            case "leader":
                return leader(command[1]);
            case "replicas":
                waitForReplicas(command[1], Integer.parseInt(command[2]));
                return "done";
            default:
                return String.valueOf(measure(command[1], Integer.parseInt(command[2]), Double.parseDouble(command[3]),
                        Double.parseDouble(command[4])));
        }
    }

    private void waitForBrokers(int count) throws Exception {
        for (int tries = 0; admin.describeCluster().nodes().get().size() < count; tries++) {
            if (tries == 600) {
                throw new IllegalStateException("brokers have not come in a minute");
            }
            Thread.sleep(100);
        }
    }

    private void create(String[] command) throws Exception {
        Map<String, String> settings = new HashMap<>();
        for (int i = 3; i < command.length; i++) {
            String[] setting = command[i].split("=");
            settings.put(setting[0], setting[1]);
        }
        NewTopic topic = new NewTopic(command[1], Optional.of(1), Optional.of(Short.parseShort(command[2])));
        admin.createTopics(List.of(topic.configs(settings))).all().get();
    }

    private double measure(String topic, int clients, double warmUp, double seconds) throws Exception {
        LongAdder acknowledged = new LongAdder();
        List<Thread> threads = new ArrayList<>();
        start(topic, clients, acknowledged::increment, threads);
        Thread.sleep((long) (warmUp * 1000));
        long before = acknowledged.sum();
        long started = System.nanoTime();
        Thread.sleep((long) (seconds * 1000));
        double rate = (acknowledged.sum() - before) / ((System.nanoTime() - started) / 1e9);
        stop(threads);
        return rate;
    }

    private void start(String topic, int clients, Runnable acknowledged, List<Thread> threads) {
        ended = false;
        for (int i = 0; i < clients; i++) {
            KafkaProducer<byte[], byte[]> producer = producer(i);
            threads.add(new Thread(() -> send(producer, topic, acknowledged)));
        }
        threads.forEach(Thread::start);
    }

    private void stop(List<Thread> threads) throws Exception {
        ended = true;
        for (Thread thread : threads) {
            thread.join();
        }
        threads.clear();
    }

    private TopicPartitionInfo describe(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0);
    }

    private String leader(String topic) throws Exception {
        return describe(topic).leader().host() + ":" + describe(topic).leader().port();
    }

    private void waitForReplicas(String topic, int count) throws Exception {
        for (int tries = 0; describe(topic).isr().size() < count; tries++) {
            if (tries == 600) {
                throw new IllegalStateException("replicas have not come in a minute");
            }
            Thread.sleep(100);
        }
    }

    /** The producer of a client, which is kept. */
    private KafkaProducer<byte[], byte[]> producer(int client) {
        while (producers.size() <= client) {
            Map<String, Object> settings = new HashMap<>(connection);
            settings.put("acks", "all");
            settings.put("linger.ms", 0);
            producers.add(new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer()));
        }
        return producers.get(client);
    }

    private void send(KafkaProducer<byte[], byte[]> producer, String topic, Runnable acknowledged) {
        byte[] value = new byte[VALUE_LENGTH];
        new Random().nextBytes(value);
        try {
            while (!ended) {
                producer.send(new ProducerRecord<>(topic, 0, null, value)).get();
                acknowledged.run();
            }
        } catch (Exception failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }
}
