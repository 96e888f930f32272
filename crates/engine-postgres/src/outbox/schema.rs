//! The outbox's tables, and the functions that applications call.
//!
//! **Invariants.** What a caller may do is to publish: tables and helpers are the broker's, functions run with the rights of
//! whoever owns the schema and find names nowhere else. What is wrong about a message is said to who publishes it, in its
//! transaction, as far as the database can know. Creating all this again changes no right that was granted.
//!
//! Deliberately absent: migrations; there is one format so far. Topics and exchanges: they may come later than what is for them.

use crate::connection::{Connection, Failed};
use crate::schema::Names;

/// The format of the tables.
const FORMAT: i32 = 1;
/// Bytes of one message at most: value or body, key, and the rest as text. What a topic takes may be less.
const BYTES_MAX: i64 = 16 << 20;

/// Creates what is missing, in one transaction.
pub(super) async fn create(connection: &Connection, names: &Names, system_id: i64) -> Result<(), Failed> {
    let schema = names.schema();
    let sql = [
        "BEGIN;".to_owned(),
        tables(schema, system_id),
        publishing(schema),
        writing(schema),
        checking(schema),
        operating(schema),
        "COMMIT".to_owned(),
    ]
    .concat();
    let created = connection.batch(&sql).await;
    if created.is_err() && !connection.is_closed() {
        connection.batch("ROLLBACK").await?;
    }
    created
}

fn tables(schema: &str, system_id: i64) -> String {
    let columns = "id int8 PRIMARY KEY, xid xid8 NOT NULL, published_at timestamptz NOT NULL, size int4 NOT NULL, \
                   topic text, vhost text, exchange text, key bytea, body bytea, properties jsonb, mandatory bool NOT NULL";
    // Nothing is updated or deleted: there is nothing to vacuum but for the age of transactions.
    let with = "WITH (autovacuum_vacuum_insert_threshold = -1)";
    let mut sql = format!(
        "CREATE SEQUENCE IF NOT EXISTS {schema}.outbox_ids CACHE 1;
         CREATE TABLE IF NOT EXISTS {schema}.outbox (
             one bool PRIMARY KEY DEFAULT true CHECK (one), format int4 NOT NULL, current int2 NOT NULL,
             system_id int8 NOT NULL, since pg_snapshot NOT NULL);
         INSERT INTO {schema}.outbox (format, current, system_id, since)
             VALUES ({FORMAT}, 0, {system_id}, pg_current_snapshot()) ON CONFLICT DO NOTHING;
         CREATE TABLE IF NOT EXISTS {schema}.undelivered ({columns}, reason text NOT NULL,
             undelivered_at timestamptz NOT NULL);\n"
    );
    for at in 0..super::TABLES {
        sql += &format!(
            "CREATE TABLE IF NOT EXISTS {schema}.outbox_{at} ({columns}) {with};
             CREATE INDEX IF NOT EXISTS outbox_{at}_xid ON {schema}.outbox_{at} (xid);\n"
        );
    }
    sql
}

/// How a function begins that others may call. Names are found in the catalogue only, whatever a caller put elsewhere.
const FOR_OTHERS: &str = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$";

/// What applications call.
fn publishing(schema: &str) -> String {
    let mut sql = String::new();
    for (value, key) in [("text", "text"), ("bytea", "bytea")] {
        // Text is sent as UTF-8, whatever the database's encoding.
        let bytes = |name: &str| match value {
            "text" => format!("convert_to({name}, 'UTF8')"),
            _ => name.to_owned(),
        };
        sql += &format!(
            "CREATE OR REPLACE FUNCTION {schema}.publish(
                 topic text, value {value}, key {key} DEFAULT NULL, headers jsonb DEFAULT NULL)
             RETURNS int8 LANGUAGE plpgsql VOLATILE {FOR_OTHERS}
             BEGIN
                 IF topic IS NULL OR topic !~ '^[a-zA-Z0-9._-]{{1,249}}$' OR topic IN ('.', '..') THEN
                     RAISE EXCEPTION 'no topic can have this name: %', topic USING ERRCODE = 'invalid_parameter_value',
                         HINT = 'Names have 1 to 249 characters of a-z, A-Z, 0-9, \".\", \"_\" and \"-\".';
                 END IF;
                 IF jsonb_typeof(headers) <> 'object' THEN
                     RAISE EXCEPTION 'headers are not a JSON object: %', headers
                         USING ERRCODE = 'invalid_parameter_value';
                 END IF;
                 RETURN {schema}.outbox_put(topic, NULL, NULL, {key_bytes}, {body}, headers, false);
             END $$;
             CREATE OR REPLACE FUNCTION {schema}.publish_to_exchange(
                 exchange text, routing_key text, body {value}, properties jsonb DEFAULT NULL,
                 vhost text DEFAULT '/', mandatory bool DEFAULT false)
             RETURNS int8 LANGUAGE plpgsql VOLATILE {FOR_OTHERS}
             BEGIN
                 IF exchange IS NULL OR routing_key IS NULL OR body IS NULL OR vhost IS NULL OR mandatory IS NULL THEN
                     RAISE EXCEPTION 'exchange, routing key, body, virtual host and mandatory may not be NULL'
                         USING ERRCODE = 'null_value_not_allowed';
                 END IF;
                 IF octet_length(convert_to(exchange, 'UTF8')) > 255
                     OR octet_length(convert_to(routing_key, 'UTF8')) > 255 THEN
                     RAISE EXCEPTION 'names and routing keys have at most 255 bytes'
                         USING ERRCODE = 'invalid_parameter_value';
                 END IF;
                 PERFORM {schema}.outbox_check(properties);
                 RETURN {schema}.outbox_put(NULL, vhost, exchange, convert_to(routing_key, 'UTF8'), {message},
                     properties, mandatory);
             END $$;
             REVOKE ALL ON FUNCTION {schema}.publish(text, {value}, {key}, jsonb) FROM PUBLIC;
             REVOKE ALL ON FUNCTION {schema}.publish_to_exchange(text, text, {value}, jsonb, text, bool) FROM PUBLIC;\n",
            key_bytes = bytes("key"),
            body = bytes("value"),
            message = bytes("body"),
        );
    }
    sql
}

/// What those call: a row is written.
fn writing(schema: &str) -> String {
    let mut insert = String::new();
    for at in 0..super::TABLES {
        insert += &format!(
            "WHEN {at} THEN INSERT INTO {schema}.outbox_{at} VALUES (id, pg_current_xact_id(), clock_timestamp(), size,
                 topic, vhost, exchange, key, body, properties, mandatory);\n"
        );
    }
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.outbox_put(
             topic text, vhost text, exchange text, key bytea, body bytea, properties jsonb, mandatory bool)
         RETURNS int8 LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
         DECLARE
             size int8 := coalesce(octet_length(body), 0) + coalesce(octet_length(key), 0)
                 + coalesce(octet_length(properties::text), 0) + 256;
             id int8;
         BEGIN
             IF size > {BYTES_MAX} THEN
                 RAISE EXCEPTION 'the message is too large: % bytes, at most {BYTES_MAX} are taken', size
                     USING ERRCODE = 'program_limit_exceeded';
             END IF;
             id := nextval('{schema}.outbox_ids');
             CASE (SELECT o.current FROM {schema}.outbox o)
                 {insert}
             END CASE;
             RETURN id;
         END $$;
         REVOKE ALL ON FUNCTION {schema}.outbox_put(text, text, text, bytea, bytea, jsonb, bool) FROM PUBLIC;\n"
    )
}

/// What those call: properties are looked over.
fn checking(schema: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.outbox_check(properties jsonb)
         RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
         DECLARE
             name text;
             value jsonb;
             wanted text;
         BEGIN
             IF properties IS NULL THEN RETURN; END IF;
             IF jsonb_typeof(properties) <> 'object' THEN
                 RAISE EXCEPTION 'properties are not a JSON object: %', properties
                     USING ERRCODE = 'invalid_parameter_value';
             END IF;
             FOR name, value IN SELECT * FROM jsonb_each(properties) LOOP
                 wanted := CASE
                     WHEN name = 'headers' THEN 'object'
                     WHEN name IN ('delivery_mode', 'priority', 'timestamp') THEN 'number'
                     WHEN name IN ('content_type', 'content_encoding', 'correlation_id', 'reply_to', 'expiration',
                         'message_id', 'type', 'app_id') THEN 'string' END;
                 IF wanted IS NULL THEN
                     RAISE EXCEPTION 'there is no such property: %', name USING ERRCODE = 'invalid_parameter_value',
                         HINT = 'There are content_type, content_encoding, headers, delivery_mode, priority, '
                             'correlation_id, reply_to, expiration, message_id, timestamp, type and app_id.';
                 ELSIF jsonb_typeof(value) <> wanted THEN
                     RAISE EXCEPTION 'the property % is to be a JSON %: %', name, wanted, value
                         USING ERRCODE = 'invalid_parameter_value';
                 END IF;
             END LOOP;
         END $$;
         REVOKE ALL ON FUNCTION {schema}.outbox_check(jsonb) FROM PUBLIC;\n"
    )
}

/// What operators call.
fn operating(schema: &str) -> String {
    let publishers = "publish(text, text, text, jsonb)|publish(text, bytea, bytea, jsonb)|\
                      publish_to_exchange(text, text, text, jsonb, text, bool)|\
                      publish_to_exchange(text, text, bytea, jsonb, text, bool)";
    let grants: String = publishers
        .split('|')
        .map(|name| format!("EXECUTE format('GRANT EXECUTE ON FUNCTION {schema}.{name} TO %I', role);\n"))
        .collect();
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.publish_again(id int8)
         RETURNS int8 LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
         DECLARE
             again {schema}.undelivered%ROWTYPE;
         BEGIN
             DELETE FROM {schema}.undelivered u WHERE u.id = publish_again.id RETURNING * INTO again;
             IF NOT FOUND THEN RETURN NULL; END IF;
             RETURN {schema}.outbox_put(again.topic, again.vhost, again.exchange, again.key, again.body,
                 again.properties, again.mandatory);
         END $$;
         CREATE OR REPLACE FUNCTION {schema}.grant_publish(role name)
         RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
         BEGIN
             EXECUTE format('GRANT USAGE ON SCHEMA {schema} TO %I', role);
             {grants}
         END $$;
         CREATE OR REPLACE FUNCTION {schema}.outbox_adopt()
         RETURNS int8 LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
         DECLARE
             kept int8;
         BEGIN
             LOCK TABLE {schema}.outbox_0, {schema}.outbox_1, {schema}.outbox_2 IN ACCESS EXCLUSIVE MODE;
             INSERT INTO {schema}.undelivered
                 SELECT o.*, 'the database was copied from another server, which may have relayed it', now()
                 FROM (SELECT * FROM {schema}.outbox_0 UNION ALL SELECT * FROM {schema}.outbox_1
                     UNION ALL SELECT * FROM {schema}.outbox_2) o ON CONFLICT (id) DO NOTHING;
             GET DIAGNOSTICS kept = ROW_COUNT;
             TRUNCATE {schema}.outbox_0, {schema}.outbox_1, {schema}.outbox_2;
             UPDATE {schema}.outbox SET since = pg_current_snapshot(),
                 system_id = (SELECT c.system_identifier FROM pg_control_system() c);
             RETURN kept;
         END $$;
         REVOKE ALL ON FUNCTION {schema}.publish_again(int8), {schema}.grant_publish(name),
             {schema}.outbox_adopt() FROM PUBLIC;\n"
    )
}
