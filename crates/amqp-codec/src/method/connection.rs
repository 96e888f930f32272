//! Class connection: greeting, login, tuning and the end (AMQP 0-9-1 reference, class 10).

methods! {
    'a 10 "connection";

    /// The server's greeting.
    Start<'a> = 10 "start" {
        /// Major version of the protocol: 0.
        version_major: octet,
        /// Minor version of the protocol: 9.
        version_minor: octet,
        /// What the server says about itself, `capabilities` among it.
        server_properties: table,
        /// Names of login mechanisms, with spaces between.
        mechanisms: longstr,
        /// Names of locales, with spaces between: `en_US`.
        locales: longstr,
    }

    /// The client's choice of a login mechanism, with the first response of it.
    StartOk<'a> = 11 "start-ok" {
        /// What the client says about itself, `capabilities` among it.
        client_properties: table,
        /// The mechanism chosen.
        mechanism: shortstr,
        /// The mechanism's data: for PLAIN, `\0user\0password`; for AMQPLAIN, the entries of a table.
        response: longstr,
        /// The locale chosen.
        locale: shortstr,
    }

    /// Another question of the login mechanism.
    Secure<'a> = 20 "secure" {
        /// The mechanism's data.
        challenge: longstr,
    }

    /// The answer to [`Secure`].
    SecureOk<'a> = 21 "secure-ok" {
        /// The mechanism's data.
        response: longstr,
    }

    /// The server's limits.
    Tune<> = 30 "tune" {
        /// Highest channel number; 0 is no limit.
        channel_max: short,
        /// Largest frame in bytes, head and end included; 0 is no limit.
        frame_max: long,
        /// Seconds between signs of life; 0 is none.
        heartbeat: short,
    }

    /// The client's choice within [`Tune`].
    TuneOk<> = 31 "tune-ok" {
        /// Highest channel number; 0 is no limit.
        channel_max: short,
        /// Largest frame in bytes, head and end included; 0 is no limit.
        frame_max: long,
        /// Seconds between signs of life; 0 is none.
        heartbeat: short,
    }

    /// Enters a virtual host.
    Open<'a> = 40 "open" {
        /// The virtual host.
        virtual_host: shortstr,
        /// Reserved.
        capabilities: shortstr,
        /// Reserved.
        insist: bit,
    }

    /// The connection is open.
    OpenOk<'a> = 41 "open-ok" {
        /// Reserved.
        known_hosts: shortstr,
    }

    /// Ends the connection, with the reason.
    Close<'a> = 50 "close" {
        /// A [`ReplyCode`](crate::reply_code::ReplyCode), if the peer is honest.
        reply_code: short,
        /// The reason in words.
        reply_text: shortstr,
        /// Class of the method at fault, or 0.
        class_id: short,
        /// Method at fault, or 0.
        method_id: short,
    }

    /// The answer to [`Close`]: the last frame.
    CloseOk<> = 51 "close-ok" {}

    /// The server takes no more messages (an extension of RabbitMQ).
    Blocked<'a> = 60 "blocked" {
        /// Why.
        reason: shortstr,
    }

    /// The server takes messages again (an extension of RabbitMQ).
    Unblocked<> = 61 "unblocked" {}

    /// Fresh credentials for the connection (an extension of RabbitMQ).
    UpdateSecret<'a> = 70 "update-secret" {
        /// The credentials.
        new_secret: longstr,
        /// Why, for the log.
        reason: shortstr,
    }

    /// The answer to [`UpdateSecret`].
    UpdateSecretOk<> = 71 "update-secret-ok" {}
}
