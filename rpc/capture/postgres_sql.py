"""The SQL of capture on PostgreSQL: tables as in SQLite, and one function that logs whatever row changes. Pure text.

A trigger of a table passes on the columns of its key, those of type bytea, and the table's name. The row itself is
to_jsonb(OLD or NEW), so a new column is captured from its first row on. Settings that change how values look as text
are pinned in the function. The name of a trigger begins with '!', for PostgreSQL fires triggers by name: an entry must
be written before a trigger of the user changes the row once more.
"""

from __future__ import annotations

from collections.abc import Sequence

ROW_TRIGGER = "!_evodb_row"
TRUNCATE_TRIGGER = "!_evodb_truncate"
TABLES = ("_evodb_meta", "_evodb_change", "_evodb_batch", "_evodb_dead_letter", "_evodb_delivered")
FUNCTIONS = ("_evodb_row()", "_evodb_truncate()", "_evodb_json(jsonb, text[])", "_evodb_name(jsonb, text[])")

PINNED = (
    "SET bytea_output = 'hex' SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601'"
    " SET extra_float_digits = 1"
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def tables(schema: str) -> str:
    s = quoted(schema)
    return f"""
CREATE TABLE IF NOT EXISTS {s}._evodb_meta (key text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE IF NOT EXISTS {s}._evodb_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, timestamp_ms bigint NOT NULL, operation smallint NOT NULL,
    table_name text NOT NULL, row_id text NOT NULL, before text, after text, metadata text);
CREATE TABLE IF NOT EXISTS {s}._evodb_batch (
    sequence bigint PRIMARY KEY, first bigint NOT NULL, last bigint NOT NULL, entries integer NOT NULL,
    payload bytea NOT NULL);
CREATE TABLE IF NOT EXISTS {s}._evodb_dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sequence bigint NOT NULL, reason text NOT NULL,
    time_ms bigint NOT NULL, entries integer NOT NULL, payload bytea NOT NULL);
CREATE TABLE IF NOT EXISTS {s}._evodb_delivered (
    epoch bigint NOT NULL, table_name text NOT NULL, entries bigint NOT NULL, digest bigint NOT NULL,
    first bigint NOT NULL, last bigint NOT NULL, PRIMARY KEY (epoch, table_name));
"""


def functions(schema: str) -> str:
    """SECURITY DEFINER, so that whoever may write the user's table needs no rights on ours."""
    s = quoted(schema)
    owned = f"SECURITY DEFINER SET search_path = {s}, pg_temp {PINNED}"
    return f"""
CREATE OR REPLACE FUNCTION {s}._evodb_name(row_ jsonb, keys text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $${_NAME}$$;
CREATE OR REPLACE FUNCTION {s}._evodb_json(row_ jsonb, blobs text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $${_JSON}$$;
CREATE OR REPLACE FUNCTION {s}._evodb_row() RETURNS trigger LANGUAGE plpgsql {owned} AS $${_ROW}$$;
CREATE OR REPLACE FUNCTION {s}._evodb_truncate() RETURNS trigger LANGUAGE plpgsql {owned} AS $${_TRUNCATE}$$;
"""


_NAME = """
SELECT CASE WHEN cardinality(keys) = 1 THEN row_ ->> keys[1] ELSE '[' || (
    SELECT string_agg((row_ -> key)::text, ',' ORDER BY at) FROM unnest(keys) WITH ORDINALITY k (key, at)) || ']' END
"""
_JSON = """
SELECT CASE WHEN cardinality(blobs) = 0 THEN row_::text ELSE (row_ || coalesce((
    SELECT jsonb_object_agg(b, translate(encode(decode(substr(row_ ->> b, 3), 'hex'), 'base64'), E'\\n', ''))
    FROM unnest(blobs) b WHERE row_ ->> b IS NOT NULL), '{}'))::text END
"""
# What most tables need, a key of one column and no bytea, is done without calling the functions above.
_ROW = """
DECLARE
    keys text[] := TG_ARGV[0];
    blobs text[] := TG_ARGV[1];
    old_ jsonb; new_ jsonb; old_name text; new_name text; before_ text; after_ text; about text;
    now_ bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    code smallint := CASE TG_OP WHEN 'INSERT' THEN 0 WHEN 'UPDATE' THEN 1 ELSE 2 END;
BEGIN
    IF code > 0 THEN
        old_ := to_jsonb(OLD); before_ := old_::text; old_name := old_ ->> keys[1];
    END IF;
    IF code < 2 THEN
        new_ := to_jsonb(NEW); after_ := new_::text; new_name := new_ ->> keys[1];
    END IF;
    IF cardinality(keys) > 1 THEN
        old_name := _evodb_name(old_, keys); new_name := _evodb_name(new_, keys);
    END IF;
    IF cardinality(blobs) > 0 THEN
        before_ := _evodb_json(old_, blobs); after_ := _evodb_json(new_, blobs);
        about := (SELECT jsonb_build_object('blobs', jsonb_agg(b))::text FROM unnest(blobs) b
            WHERE old_ ->> b IS NOT NULL OR new_ ->> b IS NOT NULL HAVING count(*) > 0);
    END IF;
    IF old_name <> new_name THEN
        INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, metadata)
        VALUES (now_, 2, TG_ARGV[2], old_name, before_, about);
        old_name := NULL; before_ := NULL; code := 0;
    END IF;
    INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, after, metadata)
    VALUES (now_, code, TG_ARGV[2], coalesce(old_name, new_name), before_, after_, about);
    RETURN NULL;
END
"""
_TRUNCATE = """
BEGIN
    EXECUTE format('INSERT INTO _evodb_change (timestamp_ms, operation, table_name, row_id, before, metadata)
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000), 2, %L, _evodb_name(to_jsonb(t), $1),
            _evodb_json(to_jsonb(t), $2), (SELECT jsonb_build_object(''blobs'', jsonb_agg(b))::text FROM unnest($2) b
                WHERE to_jsonb(t) ->> b IS NOT NULL HAVING count(*) > 0) FROM %I.%I t',
        TG_ARGV[2], TG_TABLE_SCHEMA, TG_TABLE_NAME) USING TG_ARGV[0]::text[], TG_ARGV[1]::text[];
    RETURN NULL;
END
"""


def arguments(table: str, *, keys: Sequence[str], blobs: Sequence[str]) -> str:
    """What the triggers of a table pass on; two triggers with the same do the same."""
    return ", ".join(map(literal, (array(keys), array(blobs), table)))


def triggers(schema: str, table: str, given: str) -> str:
    name = f"{quoted(schema)}.{quoted(table)}"
    return f"""
{no_triggers(schema, table)}
CREATE TRIGGER {quoted(ROW_TRIGGER)} AFTER INSERT OR UPDATE OR DELETE ON {name}
    FOR EACH ROW EXECUTE FUNCTION {quoted(schema)}._evodb_row({given});
CREATE TRIGGER {quoted(TRUNCATE_TRIGGER)} BEFORE TRUNCATE ON {name}
    FOR EACH STATEMENT EXECUTE FUNCTION {quoted(schema)}._evodb_truncate({given});
"""


def no_triggers(schema: str, table: str) -> str:
    name = f"{quoted(schema)}.{quoted(table)}"
    return "".join(
        f"DROP TRIGGER IF EXISTS {quoted(trigger)} ON {name};\n" for trigger in (ROW_TRIGGER, TRUNCATE_TRIGGER)
    )


def array(texts: Sequence[str]) -> str:
    """The text of a PostgreSQL array."""
    escaped = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in escaped) + "}"


ATTACHED = """
SELECT c.relname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND t.tgname IN (%s, %s)
"""

COLUMNS = """
SELECT a.attname, a.atttypid = 'bytea'::regtype, coalesce(array_position(i.indkey::int2[], a.attnum), -1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
"""

CUT = """
WITH waiting AS (
    SELECT id, {entry} + octet_length(table_name) + octet_length(row_id) + coalesce(octet_length(before), 0)
        + coalesce(octet_length(after), 0) + coalesce(octet_length(metadata), 0) AS size_bytes
    FROM _evodb_change ORDER BY id LIMIT %s
), fitting AS (
    SELECT id, sum(size_bytes) OVER (ORDER BY id) AS upto, row_number() OVER (ORDER BY id) AS place FROM waiting
)
DELETE FROM _evodb_change c USING fitting f WHERE c.id = f.id AND (f.place = 1 OR f.upto <= %s)
RETURNING c.id, c.timestamp_ms, c.operation, c.table_name, c.row_id, c.before, c.after, c.metadata
"""
