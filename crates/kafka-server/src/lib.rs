//! The Kafka door: sessions and one handler per API.
