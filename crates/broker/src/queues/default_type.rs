//! The type of a queue that names none: its virtual host's.
//!
//! **Invariant.** What comes out of here says what it is, or is classic: a default that changes later changes no queue.
//!
//! Deliberately absent: where the default is kept (with its virtual host), and what types take (`settings`).

use super::args::Value;
use super::settings::{QUEUE_TYPE, QueueType};
use super::types::QueueSpec;

/// A declaration with the type that its virtual host gives to those that name none, as RabbitMQ has it
/// (`rabbit_amqqueue:augment_declare_args`): what cannot be of that type is classic, which need not be said.
pub(super) fn with_default(mut spec: QueueSpec, default: QueueType) -> QueueSpec {
    let unsaid = |value: &Value| matches!(value.as_text(), Some("" | "undefined"));
    if spec.arguments.get(QUEUE_TYPE).is_some_and(unsaid) {
        spec.arguments.0.retain(|(name, _)| name != QUEUE_TYPE);
    }
    if default != QueueType::Classic && fits(default, &spec) && spec.arguments.get(QUEUE_TYPE).is_none() {
        spec.arguments.0.push((QUEUE_TYPE.to_owned(), Value::text(default.name())));
    }
    spec
}

/// Whether a queue may be of a type that it does not name: others than classic ones are durable, everybody's, and stay
/// until they are deleted.
fn fits(kind: QueueType, spec: &QueueSpec) -> bool {
    kind == QueueType::Classic || (spec.durable && !spec.exclusive && !spec.auto_delete)
}
