#!/usr/bin/env bash
# Where librdkafka's suite looks for Kafka's own tool (KAFKA_PATH).
exec "$(dirname "$0")/../../../../bench/kafka-peer" tool org.apache.kafka.tools.TopicCommand "$@"
