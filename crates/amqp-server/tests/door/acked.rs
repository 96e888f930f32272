//! No answer before acknowledgements that came earlier are durable.

use ferrymq_amqp_codec::method::{basic, channel, confirm, connection, exchange, queue, tx};
use ferrymq_amqp_codec::{MethodId, WireMethod};
use ferrymq_storage::MemoryStore;

use crate::support::{Client, Server, persistent};

/// A client that holds one persistent message, and commits that wait from now on.
struct Scene {
    server: Server,
    store: MemoryStore,
    client: Client,
    tag: u64,
}

impl Scene {
    async fn new() -> Scene {
        let store = MemoryStore::new();
        let server = Server::start_over(store.clone()).await;
        let mut client = server.channel().await;
        client.queue("durable q").await;
        client.confirm_select().await;
        client.put_publish(1, "", "durable q", &persistent(), b"x").send().await;
        client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
        client.open(2).await;
        let (tag, ..) = client.get("durable q").await.unwrap();
        Scene { server, store, client, tag }
    }

    /// The answer to `method` comes after the commit of an acknowledgement before it.
    async fn waits<'a, M: WireMethod<'a>>(self, channel: u16, method: &M, answer: MethodId) {
        self.waits_past(None, channel, method, answer).await;
    }

    /// The same, though a channel fails in between.
    async fn waits_past<'a, M: WireMethod<'a>>(
        mut self,
        failing: Option<u16>,
        channel: u16,
        method: &M,
        answer: MethodId,
    ) {
        let mut other = self.server.channel().await;
        let commits = self.store.commits();
        let hold = self.store.hold_commits();
        self.client.put(1, &basic::Ack { delivery_tag: self.tag, multiple: false });
        if let Some(failing) = failing {
            self.client.put(failing, &basic::Ack { delivery_tag: 77, multiple: false });
        }
        self.client.put(channel, method).send().await;
        if let Some(failing) = failing {
            let told = self.client.reply(failing).await;
            assert_eq!(MethodId::peek(&told), Some(channel::Close::ID));
        }
        let others = async {
            while self.store.commits() == commits {
                other.qos(1, false).await;
            }
            for _ in 0..20 {
                other.qos(1, false).await;
            }
        };
        tokio::select! {
            reply = self.client.reply(channel) => panic!("{:?} came too early", MethodId::peek(&reply)),
            () = others => {}
        }
        drop(hold);
        let reply = self.client.reply(channel).await;
        assert_eq!(MethodId::peek(&reply), Some(answer));
    }
}

#[tokio::test]
async fn an_answer_waits_for_acknowledgements_before_it() {
    let qos = basic::Qos { prefetch_count: 3, ..basic::Qos::default() };
    Scene::new().await.waits(1, &qos, basic::QosOk::ID).await;
    Scene::new().await.waits(1, &basic::Recover { requeue: true }, basic::RecoverOk::ID).await;
    let get = basic::Get { queue: b"durable q", ..basic::Get::default() };
    Scene::new().await.waits(1, &get, basic::GetEmpty::ID).await;
    Scene::new().await.waits(1, &confirm::Select { nowait: false }, confirm::SelectOk::ID).await;
    Scene::new().await.waits(2, &tx::Select {}, tx::SelectOk::ID).await;
    Scene::new().await.waits(1, &channel::Flow { active: true }, channel::FlowOk::ID).await;
    let consume = basic::Consume { queue: b"durable q", ..basic::Consume::default() };
    Scene::new().await.waits(1, &consume, basic::ConsumeOk::ID).await;
    let passive = queue::Declare { queue: b"durable q", passive: true, ..queue::Declare::default() };
    Scene::new().await.waits(1, &passive, queue::DeclareOk::ID).await;
    let passive = exchange::Declare { exchange: b"amq.topic", passive: true, ..exchange::Declare::default() };
    Scene::new().await.waits(1, &passive, exchange::DeclareOk::ID).await;
}

#[tokio::test]
async fn the_end_of_a_channel_or_connection_waits_for_acknowledgements_before_it() {
    let close = channel::Close { reply_code: 200, ..channel::Close::default() };
    Scene::new().await.waits(1, &close, channel::CloseOk::ID).await;
    // Of whatever channel: one reader takes a connection's methods in turn.
    Scene::new().await.waits(3, &channel::Open::default(), channel::OpenOk::ID).await;
    let close = connection::Close { reply_code: 200, ..connection::Close::default() };
    Scene::new().await.waits(0, &close, connection::CloseOk::ID).await;
}

#[tokio::test]
async fn an_answer_of_the_connection_waits_for_acknowledgements_before_it() {
    let update = connection::UpdateSecret { new_secret: b"new", reason: b"why not" };
    Scene::new().await.waits(0, &update, connection::UpdateSecretOk::ID).await;
}

#[tokio::test]
async fn that_another_channel_fails_in_between_lets_no_answer_go_early() {
    let qos = basic::Qos { prefetch_count: 3, ..basic::Qos::default() };
    Scene::new().await.waits_past(Some(2), 1, &qos, basic::QosOk::ID).await;
}

#[tokio::test]
async fn a_store_that_refuses_acknowledgements_fails_what_would_vouch_for_them() {
    let Scene { server, store, mut client, tag } = Scene::new().await;
    store.fail_next(ferrymq_storage::ErrorKind::Full, false);
    client.put(1, &basic::Ack { delivery_tag: tag, multiple: false });
    client.put(1, &basic::Qos { prefetch_count: 3, ..basic::Qos::default() }).send().await;
    let text = "INTERNAL_ERROR - the store failed: failed as ordered";
    client.connection_closes(541, text, basic::Qos::ID).await;
    let server = server.restart().await;
    let mut client = server.channel().await;
    assert_eq!(client.get("durable q").await, None, "a clean stop writes it");
}
