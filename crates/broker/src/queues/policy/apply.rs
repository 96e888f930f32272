//! Setting and clearing policies: stored first, then everything they concern goes by them.
//!
//! **Invariants.** When a change returns, exchanges route by it and every queue that it concerns has taken it over,
//! and dropped what is too many or too old. A queue that it changes nothing for hears nothing.
//!
//! Deliberately absent: what a queue does with other settings (`shard/configure.rs`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ferrymq_storage::{ErrorKind, MetaStore, StorageError};
use futures_util::{StreamExt as _, stream};

use super::{POLICIES_MAX, Policies, Policy, PolicyError, PolicySort, PolicySpec};
use crate::queues::consuming::Consuming;
use crate::queues::dead_letters::DeadLetterTo;
use crate::queues::error::{Entity, QueueError};
use crate::queues::handle::Queues;
use crate::queues::open::{internal, load_records};
use crate::queues::records::{OPERATOR_POLICIES, POLICIES, PolicyRecord, gone, key, put};
use crate::queues::settings::QueueSettings;
use crate::queues::shard::message::{Configured, ShardMessage};
use crate::queues::streams::policies;
use crate::queues::topology::{Topology, Vhost};
use crate::queues::types::{QueueHandle, QueueSpec};

/// Queues told at a time.
const QUEUES_AT_A_TIME: usize = 64;

const fn prefix(sort: PolicySort) -> &'static str {
    match sort {
        PolicySort::Policy => POLICIES,
        PolicySort::Operator => OPERATOR_POLICIES,
    }
}

/// Reads the policies of all virtual hosts.
pub(in crate::queues) async fn load(
    meta: &dyn MetaStore,
    topology: &mut Topology,
) -> Result<(), StorageError> {
    for sort in [PolicySort::Policy, PolicySort::Operator] {
        for (key, record) in load_records::<PolicyRecord>(meta, prefix(sort)).await? {
            let Ok(vhost) = topology.vhost_mut(&record.vhost) else {
                return Err(internal(format!("a stored policy lies in no virtual host: {key}")));
            };
            let policy = Policy::stored(record.spec())
                .map_err(|bad| internal(format!("a stored policy makes no sense: {key}: {bad:?}")))?;
            let mut policies = vhost.policies().clone();
            policies.insert(sort, policy);
            vhost.set_policies(policies);
        }
    }
    Ok(())
}

impl Queues {
    /// Sets a policy, in the place of that of the same name; whether it was not there before.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub async fn set_policy(
        self: &Arc<Queues>,
        sort: PolicySort,
        vhost: &str,
        spec: PolicySpec,
    ) -> Result<bool, PolicyError> {
        let vhost = vhost.to_owned();
        self.in_turn(move |queues, _turn| async move { queues.set_policy_now(sort, &vhost, spec).await })
            .await
    }

    /// Clears a policy; whether it was there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn clear_policy(
        self: &Arc<Queues>,
        sort: PolicySort,
        vhost: &str,
        name: &str,
    ) -> Result<bool, QueueError> {
        let (vhost, name) = (vhost.to_owned(), name.to_owned());
        self.in_turn(move |queues, _turn| async move { queues.clear_policy_now(sort, &vhost, &name).await })
            .await
    }

    /// The policies of a virtual host, in the order in which they are tried.
    ///
    /// # Errors
    /// [`QueueError::NoVhost`].
    pub fn policies(&self, sort: PolicySort, vhost: &str) -> Result<Vec<PolicySpec>, QueueError> {
        let topology = self.topology.read();
        let policies = topology.vhost(vhost)?.policies().all(sort).iter();
        Ok(policies.map(|policy| policy.spec.clone()).collect())
    }

    /// A queue's declaration under the policies of its virtual host.
    pub(in crate::queues) fn effective<'a>(&self, vhost: &str, spec: &'a QueueSpec) -> Cow<'a, QueueSpec> {
        match self.topology.read().vhost(vhost) {
            Ok(vhost) => vhost.policies().effective(spec),
            Err(_) => Cow::Borrowed(spec),
        }
    }

    async fn set_policy_now(
        &self,
        sort: PolicySort,
        vhost: &str,
        spec: PolicySpec,
    ) -> Result<bool, PolicyError> {
        let before = self.topology.read().vhost(vhost)?.policies().clone();
        let known = before.get(sort, &spec.name);
        if known.is_some_and(|policy| policy.spec == spec) {
            return Ok(false);
        }
        let is_new = known.is_none();
        if is_new && before.all(sort).len() >= POLICIES_MAX {
            let limit = POLICIES_MAX as u64;
            return Err(QueueError::Limit { what: "the number of policies of a virtual host", limit }.into());
        }
        check_name(&spec.name)?;
        let policy = Policy::new(spec, sort).map_err(PolicyError::Bad)?;
        let key = key(prefix(sort), &[vhost, &policy.spec.name]);
        self.write(vec![put(key, PolicyRecord::new(vhost, &policy.spec))?]).await?;
        let mut after = before.clone();
        after.insert(sort, policy);
        self.go_by(vhost, &before, after).await?;
        Ok(is_new)
    }

    async fn clear_policy_now(&self, sort: PolicySort, vhost: &str, name: &str) -> Result<bool, QueueError> {
        let before = self.topology.read().vhost(vhost)?.policies().clone();
        let mut after = before.clone();
        if !after.remove(sort, name) {
            return Ok(false);
        }
        self.write(vec![gone(key(prefix(sort), &[vhost, name]))]).await?;
        self.go_by(vhost, &before, after).await?;
        Ok(true)
    }

    /// Has a virtual host go by other policies.
    async fn go_by(&self, vhost: &str, before: &Policies, after: Policies) -> Result<(), QueueError> {
        let (told, streams) = changed(self.topology.read().vhost(vhost)?, before, &after);
        self.change(vhost, |vhost| vhost.set_policies(after))?;
        for (queue, settings) in streams {
            self.set_on_stream(&queue, settings).await?;
        }
        let tell = |(queue, configured): (QueueHandle, Configured)| async move {
            let configured = Box::new(configured);
            let configure = |reply| ShardMessage::Configure { queue: queue.clone(), configured, reply };
            self.ask(&queue, configure).await
        };
        let answers: Vec<_> = stream::iter(told).map(tell).buffer_unordered(QUEUES_AT_A_TIME).collect().await;
        if answers.iter().any(Result::is_err) {
            // The change stands, and holds for all after a restart.
            let text = "a shard of queues has ended: its queues go by the policy after a restart";
            return Err(StorageError::new(ErrorKind::Unknown, text).into());
        }
        Ok(())
    }
}

/// What queues go by from now on.
type Told = Vec<(QueueHandle, Configured)>;
/// What is to be set on the topics of streams.
type ToSet = Vec<(QueueHandle, BTreeMap<String, String>)>;

/// The queues that other policies change something for, and what they go by then; and the same of streams.
fn changed(vhost: &Vhost, before: &Policies, after: &Policies) -> (Told, ToSet) {
    let (mut told, mut streams) = (Vec::new(), Vec::new());
    for entry in vhost.queues.values() {
        if entry.handle.stream().is_some() {
            let settings = policies::changed(entry, before, after);
            streams.extend((!settings.is_empty()).then(|| (entry.handle.clone(), settings)));
            continue;
        }
        let configured = Configured::of(&after.effective(&entry.spec));
        if configured != Configured::of(&before.effective(&entry.spec)) {
            told.push((entry.handle.clone(), configured));
        }
    }
    (told, streams)
}

impl Configured {
    /// What a declaration says.
    fn of(spec: &QueueSpec) -> Configured {
        Configured {
            consuming: Consuming::of(spec),
            dead_letter: DeadLetterTo::of(spec),
            settings: QueueSettings::of(spec),
        }
    }
}

fn check_name(name: &Arc<str>) -> Result<(), QueueError> {
    let entity = Entity::Policy;
    match name {
        name if name.is_empty() => Err(QueueError::BadName { entity, why: "it is empty" }),
        name if name.len() > ferrymq_types::limits::QUEUE_NAME_BYTES_MAX => {
            Err(QueueError::BadName { entity, why: "longer than 255 bytes" })
        }
        _ => Ok(()),
    }
}
