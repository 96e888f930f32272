//! The queues of a run, and the exchange in front of them.
//!
//! **Invariant.** What is published to is made anew: nothing of an earlier run is in it.

use ferrymq_amqp_codec::Method;
use ferrymq_amqp_codec::method::{exchange, queue};

use super::args::AmqpArgs;
use super::link::{self, Link};

/// Deletes the queues, and the exchange of a fan-out, and makes them again.
pub(super) async fn make(args: &AmqpArgs, link: &mut Link) -> anyhow::Result<()> {
    let name = args.queue.as_bytes();
    if args.fan_out {
        link.ask(&exchange::Delete { exchange: name, ..Default::default() }).await?;
        let durable = !args.transient;
        let declare = exchange::Declare { exchange: name, kind: b"fanout", durable, ..Default::default() };
        link.ask(&declare).await?;
    }
    let arguments = args.queue_table()?;
    for index in 0..args.queues {
        let queue_name = args.queue_name(index);
        let queue = queue_name.as_bytes();
        link.ask(&queue::Delete { queue, ..Default::default() }).await?;
        let declare = queue::Declare {
            queue,
            durable: !args.transient,
            arguments: arguments.as_table(),
            ..Default::default()
        };
        link.ask(&declare).await?;
        if args.fan_out {
            link.ask(&queue::Bind { queue, exchange: name, ..Default::default() }).await?;
        }
    }
    Ok(())
}

/// How many messages are ready in a queue.
pub(super) async fn ready(args: &AmqpArgs, link: &mut Link, index: u32) -> anyhow::Result<u64> {
    let queue_name = args.queue_name(index);
    let declare = queue::Declare { queue: queue_name.as_bytes(), passive: true, ..Default::default() };
    let answer = link.ask(&declare).await?;
    match link::checked(&answer)? {
        Method::QueueDeclareOk(there) => Ok(there.message_count.into()),
        other => anyhow::bail!("the broker said {other:?}"),
    }
}
