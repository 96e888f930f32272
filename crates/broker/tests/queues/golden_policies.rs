//! Policies and virtual hosts that an earlier program left must say the same to every later one.
//!
//! `testdata/policies-1` was copied while its writer was running, in the middle of the deletion of a virtual host. To
//! write it anew after a deliberate change of what is stored (an ADR and a line in the CHANGELOG): delete it and run
//! this once.

use std::fmt::Write as _;

use bytes::Bytes;
use ferrymq_broker::queues::{ApplyTo, ExchangeKind, PolicySort, PolicySpec, QueueType, Value, VhostSpec};
use ferrymq_storage::{MetaStore as _, Put};

use crate::golden::{Life, found, hold};
use crate::rig::{VHOST, arguments, binding, durable, exchange, int};

const SORTS: [PolicySort; 2] = [PolicySort::Policy, PolicySort::Operator];

/// Everything that is stored of them, in each of its forms.
async fn fill(life: &Life) {
    let (queues, session) = (&life.queues, &life.session);
    let told = VhostSpec {
        description: "for \u{e4}ll".to_owned(),
        tags: vec!["a".to_owned(), "b c".to_owned()],
        ..VhostSpec::named("told / \u{e4}")
    };
    queues.put_vhost(told).await.unwrap();
    let applying =
        [ApplyTo::All, ApplyTo::Queues, ApplyTo::ClassicQueues, ApplyTo::QuorumQueues, ApplyTo::Streams];
    for (at, apply_to) in (0..).zip(applying) {
        let definition =
            arguments(&[("expires", int(1_000_000_000 + at)), ("overflow", Value::text("drop-head"))]);
        let pattern = "^(?!amq\\.).*\u{e4}$".to_owned();
        let spec =
            PolicySpec { name: format!("p/{at}").into(), pattern, apply_to, priority: 3 - at, definition };
        for sort in SORTS {
            queues.set_policy(sort, VHOST, spec.clone()).await.unwrap();
        }
    }
    let leads = PolicySpec {
        name: "leads".into(),
        pattern: String::new(),
        apply_to: ApplyTo::Exchanges,
        priority: i64::MIN,
        definition: arguments(&[("alternate-exchange", Value::text("amq.fanout"))]),
    };
    queues.set_policy(PolicySort::Policy, "told / \u{e4}", leads.clone()).await.unwrap();
    queues.declare_queue(session, VHOST, durable("q\u{e4}")).await.unwrap();
    // What a crash leaves of one that is being deleted.
    queues.create_vhost("going").await.unwrap();
    queues.declare_queue(session, "going", durable("q")).await.unwrap();
    queues.declare_exchange(session, "going", exchange("e", ExchangeKind::Topic)).await.unwrap();
    queues.bind(session, "going", binding("e", "q", "#")).await.unwrap();
    queues.set_policy(PolicySort::Policy, "going", leads).await.unwrap();
    let mark = Some(Bytes::from_static(b"{\"v\":1,\"name\":\"going\"}"));
    let puts = vec![
        Put { key: "vhosts/going".to_owned(), value: None },
        Put { key: "vhosts-deleting/going".to_owned(), value: mark },
    ];
    life.meta.txn(Vec::new(), puts).await.unwrap();
}

/// What a user can see of it.
async fn seen(life: &Life) -> String {
    let mut text = String::new();
    for vhost in life.queues.vhosts() {
        let VhostSpec { name, description, tags, default_queue_type } = vhost.clone();
        write!(text, "vhost VhostSpec {{ name: {name:?}, description: {description:?}, tags: {tags:?}")
            .unwrap();
        // There was none when the first of these was written.
        if default_queue_type != QueueType::default() {
            write!(text, ", default_queue_type: {default_queue_type:?}").unwrap();
        }
        writeln!(text, " }}").unwrap();
        for sort in SORTS {
            for policy in life.queues.policies(sort, &vhost.name).unwrap() {
                writeln!(text, "  {sort:?} {policy:?}").unwrap();
            }
        }
    }
    let queue = life.queues.inspect_queue(VHOST, "q\u{e4}").await.unwrap();
    writeln!(text, "queue {:?}", queue.applied).unwrap();
    let exchange = life.queues.inspect_exchange("told / \u{e4}", "amq.topic").unwrap();
    writeln!(text, "exchange {:?}", exchange.applied).unwrap();
    // The one that was being deleted is gone, and may come anew.
    assert!(life.queues.create_vhost("going").await.unwrap());
    writeln!(text, "bindings of the new one: {}", life.queues.list_bindings(Some("going")).unwrap().len())
        .unwrap();
    text
}

#[tokio::test]
async fn policies_of_version_1_say_what_they_said() {
    let (_scratch, life) = found("policies-1", fill).await;
    let text = seen(&life).await;
    hold("policies-1", life, text).await;
}
