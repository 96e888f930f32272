//! What queues are that name no type: as their virtual host says, and as the broker said when that was made.

use std::sync::Arc;

use ferrymq_broker::queues::{QueueError, QueueOptions, QueueSpec, QueueType, Value, VhostSpec};
use ferrymq_storage::MetaStore as _;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

use crate::golden::{Life, found, hold};
use crate::rig::{Rig, VHOST, arguments, durable};

fn of(kind: QueueType) -> VhostSpec {
    VhostSpec { default_queue_type: kind, ..VhostSpec::named("v") }
}

fn typed(name: &str, kind: &str) -> QueueSpec {
    QueueSpec { arguments: arguments(&[("x-queue-type", Value::text(kind))]), ..durable(name) }
}

async fn declared(rig: &Rig, vhost: &str, spec: QueueSpec) -> Result<String, QueueError> {
    rig.queues
        .declare_queue(&rig.session, vhost, spec)
        .await
        .map(|declared| declared.queue.name().to_string())
}

async fn kind(rig: &Rig, vhost: &str, queue: &str) -> QueueType {
    rig.queues.inspect_queue(vhost, queue).await.unwrap().kind
}

#[tokio::test(start_paused = true)]
async fn what_names_no_type_is_as_its_virtual_host_says_where_it_can_be() {
    let mut rig = Rig::new().await;
    rig.queues.put_vhost(of(QueueType::Quorum)).await.unwrap();
    let transient = QueueSpec { durable: false, ..durable("transient") };
    let own = QueueSpec { exclusive: true, durable: false, ..durable("own") };
    let passing = QueueSpec { auto_delete: true, ..durable("passing") };
    let all =
        [durable("plain"), transient, own, passing, typed("said", "classic"), typed("unsaid", "undefined")];
    for spec in all.clone() {
        declared(&rig, "v", spec).await.unwrap();
    }
    let named = declared(&rig, "v", durable("")).await.unwrap();
    let expected = [
        ("plain", QueueType::Quorum),
        ("transient", QueueType::Classic),
        ("own", QueueType::Classic),
        ("passing", QueueType::Classic),
        ("said", QueueType::Classic),
        ("unsaid", QueueType::Quorum),
        (&named, QueueType::Quorum),
    ];
    for (name, is) in expected {
        assert_eq!(kind(&rig, "v", name).await, is, "{name}");
    }
    // Elsewhere nothing is different, and what is declared again as it was is as it was.
    declared(&rig, VHOST, durable("plain")).await.unwrap();
    assert_eq!(kind(&rig, VHOST, "plain").await, QueueType::Classic);
    for spec in all {
        declared(&rig, "v", spec).await.unwrap();
    }
    declared(&rig, "v", typed("plain", "quorum")).await.unwrap();
    rig.restart().await;
    declared(&rig, "v", durable("plain")).await.unwrap();
    declared(&rig, "v", durable("later")).await.unwrap();
    assert_eq!(kind(&rig, "v", "plain").await, QueueType::Quorum);
    assert_eq!(kind(&rig, "v", "later").await, QueueType::Quorum);
    assert_eq!(rig.queues.vhosts()[1], of(QueueType::Quorum));
}

#[tokio::test(start_paused = true)]
async fn what_is_there_keeps_its_type_when_the_default_changes() {
    let rig = Rig::new().await;
    rig.queues.put_vhost(of(QueueType::Quorum)).await.unwrap();
    declared(&rig, "v", durable("q")).await.unwrap();
    rig.queues.put_vhost(of(QueueType::Classic)).await.unwrap();
    assert_eq!(kind(&rig, "v", "q").await, QueueType::Quorum);
    let error = declared(&rig, "v", durable("q")).await.unwrap_err();
    assert!(
        matches!(&error, QueueError::Inequivalent { property, .. } if property == "x-queue-type"),
        "{error}"
    );
    declared(&rig, "v", typed("q", "quorum")).await.unwrap();
    declared(&rig, "v", durable("new")).await.unwrap();
    assert_eq!(kind(&rig, "v", "new").await, QueueType::Classic);
}

#[tokio::test(start_paused = true)]
async fn the_brokers_default_is_of_virtual_hosts_that_are_made_under_it() {
    let options = |kind| QueueOptions { shards: 2, default_queue_type: kind, ..QueueOptions::default() };
    let (store, meta) = (MemoryStore::new(), Arc::new(MemoryMeta::new()));
    let mut rig = Rig::with_options(store.clone(), meta.clone(), options(QueueType::Quorum)).await;
    rig.queues.create_vhost("made").await.unwrap();
    rig.queues.put_vhost(of(QueueType::Classic)).await.unwrap();
    rig.restart().await;
    let kinds =
        |rig: &Rig| rig.queues.vhosts().iter().map(|vhost| vhost.default_queue_type).collect::<Vec<_>>();
    let before = [QueueType::Quorum, QueueType::Quorum, QueueType::Classic];
    assert_eq!(kinds(&rig), before);
    declared(&rig, VHOST, durable("q")).await.unwrap();
    assert_eq!(kind(&rig, VHOST, "q").await, QueueType::Quorum);
    drop(rig);
    let rig = Rig::with_options(store, meta, options(QueueType::Classic)).await;
    assert_eq!(kinds(&rig), before);
    declared(&rig, VHOST, durable("q")).await.unwrap();
    rig.queues.create_vhost("zuletzt").await.unwrap();
    assert_eq!(kinds(&rig).last(), Some(&QueueType::Classic));
}

/// What is stored of a default type, and what an older program must refuse.
async fn fill(life: &Life) {
    for (name, kind) in [("c", QueueType::Classic), ("q", QueueType::Quorum), ("s", QueueType::Stream)] {
        let spec = VhostSpec {
            description: format!("of {}", kind.name()),
            default_queue_type: kind,
            ..VhostSpec::named(name)
        };
        life.queues.put_vhost(spec).await.unwrap();
    }
    life.queues.declare_queue(&life.session, "q", durable("d")).await.unwrap();
    life.queues.declare_queue(&life.session, "c", durable("d")).await.unwrap();
}

#[tokio::test]
async fn default_types_of_version_3_say_what_they_said() {
    let (_scratch, life) = found("vhosts-3", fill).await;
    let versions = life.meta.list("vhosts/", ferrymq_storage::Revision(0)).await.unwrap().entries;
    let versions: Vec<_> =
        versions.iter().map(|entry| (&*entry.key, entry.value.starts_with(b"{\"v\":3,"))).collect();
    let expected = [("vhosts/%2F", false), ("vhosts/c", false), ("vhosts/q", true), ("vhosts/s", true)];
    assert_eq!(versions, expected);
    let mut text = format!("{:#?}\n", life.queues.vhosts());
    for vhost in ["c", "q"] {
        text.push_str(&format!("{:?}\n", life.queues.inspect_queue(vhost, "d").await.unwrap().spec));
    }
    hold("vhosts-3", life, text).await;
}
