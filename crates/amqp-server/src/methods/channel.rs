//! Class channel: opening, closing, flow.
//!
//! **Invariant.** When `channel.close-ok` is sent, what the channel had and did not settle is available again.

use std::sync::atomic::Ordering;

use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::method::channel;

use crate::failure::Failure;
use crate::reader::Reader;

impl Reader<'_> {
    pub(crate) fn open_channel(&mut self, number: u16) -> Result<(), Failure> {
        let connection = self.connection;
        let max = usize::from(connection.opened.channel_max);
        let mut state = connection.state.lock();
        let count = state.channels.len();
        if max != 0 && count >= max {
            let text =
                format!("number of channels opened ({count}) has reached the negotiated channel_max ({max})");
            return Err(Failure::new(ReplyCode::NotAllowed, text));
        }
        state.open(number);
        drop(state);
        connection.context.counters.channels_total.fetch_add(1, Ordering::Relaxed);
        connection.context.counters.channels_open.fetch_add(1, Ordering::Relaxed);
        connection.output.method(number, &channel::OpenOk { channel_id: b"" });
        Ok(())
    }

    pub(crate) async fn close_channel(&mut self, number: u16) {
        self.clear_channel(number).await;
        self.connection.forget_channel(number);
        self.connection.output.method(number, &channel::CloseOk {});
    }

    pub(crate) fn flow(&mut self, number: u16, active: bool) -> Result<(), Failure> {
        if !active {
            return Err(Failure::new(ReplyCode::NotImplemented, "active=false"));
        }
        self.connection.output.method(number, &channel::FlowOk { active });
        Ok(())
    }
}
