//! How streams are called in the world of topics.
//!
//! The stream `q` of the virtual host `/` is the topic `q`; of any other virtual host `v` the topic `v.q`. Bytes that a
//! topic's name cannot have become `-` and two hexadecimal digits. A declaration may name the topic instead.
//!
//! **Invariant.** What is made here is a legal name, or an error. Two streams may come to the same topic; then the second
//! declaration is refused.

use std::sync::Arc;

use crate::queues::error::{Entity, QueueError};
use crate::topics::check_name;

/// The virtual host whose streams have the names of their topics.
const PLAIN_VHOST: &str = "/";

/// The topic that a stream of this name is, unless its declaration says otherwise.
pub(super) fn topic_of(vhost: &str, queue: &str) -> Result<Arc<str>, QueueError> {
    let mut name = String::with_capacity(queue.len());
    if vhost != PLAIN_VHOST {
        put(&mut name, vhost);
        name.push('.');
    }
    put(&mut name, queue);
    if name == "." || name == ".." {
        name = name.replace('.', "-2E");
    }
    match check_name(&name) {
        Ok(()) => Ok(name.into()),
        Err(_) => Err(QueueError::BadName { entity: Entity::Queue, why: "too long for the name of a topic" }),
    }
}

fn put(name: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("-{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_topics_names() {
        let cases = [
            ("/", "orders", "orders"),
            ("/", "a.b_c-9", "a.b_c-9"),
            ("/", "a b/ä", "a-20b-2F-C3-A4"),
            ("/", "..", "-2E-2E"),
            ("shop", "orders", "shop.orders"),
            ("a/b", "q", "a-2Fb.q"),
        ];
        for (vhost, queue, topic) in cases {
            assert_eq!(&*topic_of(vhost, queue).unwrap(), topic);
        }
        assert!(topic_of("/", &"x".repeat(250)).is_err());
        assert!(topic_of("/", &" ".repeat(100)).is_err(), "it grows");
    }
}
