//! Class channel: opening, flow and the end of a channel (AMQP 0-9-1 reference, class 20).

methods! {
    'a 20 "channel";

    /// Opens the channel it is sent on.
    Open<'a> = 10 "open" {
        /// Reserved.
        out_of_band: shortstr,
    }

    /// The channel is open.
    OpenOk<'a> = 11 "open-ok" {
        /// Reserved.
        channel_id: longstr,
    }

    /// Asks the peer to stop or go on sending content.
    Flow<> = 20 "flow" {
        /// Whether to send.
        active: bit,
    }

    /// The answer to [`Flow`].
    FlowOk<> = 21 "flow-ok" {
        /// Whether it sends.
        active: bit,
    }

    /// Ends the channel, with the reason.
    Close<'a> = 40 "close" {
        /// A [`ReplyCode`](crate::reply_code::ReplyCode), if the peer is honest.
        reply_code: short,
        /// The reason in words.
        reply_text: shortstr,
        /// Class of the method at fault, or 0.
        class_id: short,
        /// Method at fault, or 0.
        method_id: short,
    }

    /// The answer to [`Close`].
    CloseOk<> = 41 "close-ok" {}
}
