//! The Kafka wire protocol: bytes in, structs out. Pure, bounded, no I/O.
