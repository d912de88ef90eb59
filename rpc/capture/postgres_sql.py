"""The SQL of capture on PostgreSQL: tables as in SQLite, and one function that logs whatever row changes. Pure text.

A trigger of a table passes on the columns of its key, those of type bytea, and the table's name. The row itself is
to_jsonb(OLD or NEW), so a new column is captured from its first row on. Settings that change how values look as text
are pinned in the function. The name of a trigger begins with '!', for PostgreSQL fires triggers by name: an entry must
be written before a trigger of the user changes the row once more. They fire ALWAYS, also for what comes by replication.

No statement of the user may fail for what we write about it. What a trigger was told may be out of date (a key that was
renamed, a new bytea), and jsonb cannot hold all that json can: then the row is written by `_evodb_sql`, which asks the
catalog what there is now. That takes some 0.2 ms a row, until `attach` follows.
"""

from __future__ import annotations

from collections.abc import Sequence

ROW_TRIGGER = "!_evodb_row"
TRUNCATE_TRIGGER = "!_evodb_truncate"
TABLES = ("_evodb_meta", "_evodb_change", "_evodb_batch", "_evodb_dead_letter", "_evodb_delivered")
FUNCTIONS = (
    "_evodb_row()",
    "_evodb_truncate()",
    "_evodb_json(jsonb, text[])",
    "_evodb_name(jsonb, text[])",
    "_evodb_sql(oid)",
)

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
CREATE OR REPLACE FUNCTION {s}._evodb_sql(table_ oid) RETURNS text LANGUAGE sql STABLE AS $${_SQL}$$;
CREATE OR REPLACE FUNCTION {s}._evodb_row() RETURNS trigger LANGUAGE plpgsql {owned} AS $${_ROW}$$;
CREATE OR REPLACE FUNCTION {s}._evodb_truncate() RETURNS trigger LANGUAGE plpgsql {owned} AS $${_TRUNCATE}$$;
"""


_NAME = """
SELECT CASE WHEN NOT row_ ?& keys THEN NULL WHEN cardinality(keys) = 1 THEN row_ ->> keys[1] ELSE '[' || (
    SELECT string_agg((row_ -> key)::text, ',' ORDER BY at) FROM unnest(keys) WITH ORDINALITY k (key, at)) || ']' END
"""
_JSON = """
SELECT CASE WHEN cardinality(blobs) = 0 THEN row_::text ELSE (row_ || coalesce((
    SELECT jsonb_object_agg(b, translate(encode(decode(substr(row_ ->> b, 3), 'hex'), 'base64'), E'\\n', ''))
    FROM unnest(blobs) b WHERE row_ ->> b IS NOT NULL), '{}'))::text END
"""
# The SELECT list over a row `r` of a table as it is now: its name, its JSON, and which columns of it are bytes.
# Columns one by one, for `to_json` of each takes what `to_jsonb` of the row refuses. Without a key the name is the row.
_SQL = """
WITH found AS (
    SELECT a.attnum, a.attname::text AS name, coalesce(nullif(t.typbasetype, 0), t.oid) = 'bytea'::regtype AS is_blob,
        array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum) AS place
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
    WHERE a.attrelid = table_ AND a.attnum > 0 AND NOT a.attisdropped
), texts AS (
    SELECT *, format('%L || coalesce(%s::text, ''null'')', to_json(name)::text || ': ', format(CASE WHEN is_blob
        THEN 'to_json(translate(encode(r.%I::bytea, ''base64''), chr(10), ''''))' ELSE 'to_json(r.%I)' END, name)
        ) AS field FROM found
), joined AS (
    SELECT
        '''{'' || array_to_string(ARRAY[' || string_agg(field, ', ' ORDER BY attnum) || '], '', '') || ''}''' AS row_,
        string_agg(format('to_jsonb(r.%I)', name), ', ' ORDER BY place) FILTER (WHERE place > 0) AS key_,
        string_agg(format('CASE WHEN r.%I IS NOT NULL THEN %L END', name, name), ', ' ORDER BY attnum)
            FILTER (WHERE is_blob) AS blobs, count(place) AS keys
    FROM texts
)
SELECT concat_ws(', ', CASE keys WHEN 0 THEN row_ WHEN 1 THEN key_ || ' #>> ''{}'''
    ELSE '''['' || array_to_string(ARRAY[' || key_ || '], '','') || '']''' END,
    row_, 'array_remove(ARRAY[' || coalesce(blobs, '') || ']::text[], NULL)')
FROM joined
"""
# What most tables need, a key of one column and no bytea, is done without calling the functions above. A value of type
# bytea is known by its first characters, a quote, two backslashes and an x; what looks so is looked up.
_ROW = """
DECLARE
    keys text[] := TG_ARGV[0];
    blobs text[] := TG_ARGV[1];
    hex_ text := '"' || repeat(chr(92), 2) || 'x';
    old_ jsonb; new_ jsonb; old_name text; new_name text; before_ text; after_ text; about text; select_ text;
    old_blobs text[] := ARRAY[]::text[]; new_blobs text[] := ARRAY[]::text[]; is_known boolean := true;
    now_ bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    code smallint := CASE TG_OP WHEN 'INSERT' THEN 0 WHEN 'UPDATE' THEN 1 ELSE 2 END;
BEGIN
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
        IF strpos(before_, hex_) > 0 OR strpos(after_, hex_) > 0 THEN
            is_known := NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (blobs)
                AND coalesce(nullif(t.typbasetype, 0), t.oid) = 'bytea'::regtype);
        END IF;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        is_known := false;
    END;
    IF NOT is_known OR (code > 0 AND old_name IS NULL) OR (code < 2 AND new_name IS NULL) THEN
        select_ := 'SELECT ' || _evodb_sql(TG_RELID) || ' FROM (SELECT ($1).*) r';
        IF code > 0 THEN
            EXECUTE select_ INTO old_name, before_, old_blobs USING OLD;
        END IF;
        IF code < 2 THEN
            EXECUTE select_ INTO new_name, after_, new_blobs USING NEW;
        END IF;
        about := (SELECT jsonb_build_object('blobs', jsonb_agg(DISTINCT b))::text FROM unnest(old_blobs || new_blobs) b
            HAVING count(*) > 0);
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
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000), 2, %L, name, before,
            CASE WHEN cardinality(blobs) > 0 THEN jsonb_build_object(''blobs'', to_jsonb(blobs))::text END
        FROM (SELECT %s FROM %I.%I r) AS gone (name, before, blobs)',
        TG_ARGV[2], _evodb_sql(TG_RELID), TG_TABLE_SCHEMA, TG_TABLE_NAME);
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
ALTER TABLE {name} ENABLE ALWAYS TRIGGER {quoted(ROW_TRIGGER)}, ENABLE ALWAYS TRIGGER {quoted(TRUNCATE_TRIGGER)};
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


# Not those that a partition has of its table: they come and go with the table's. One that does not fire always is not
# as it should be; so it is after DISABLE TRIGGER ALL, and after ENABLE TRIGGER ALL.
ATTACHED = f"""
SELECT c.relname, CASE t.tgenabled WHEN 'A' THEN pg_get_triggerdef(t.oid) ELSE '' END
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND t.tgname IN ('{ROW_TRIGGER}', '{TRUNCATE_TRIGGER}') AND t.tgparentid = 0
"""  # noqa: S608 - constants

COLUMNS = """
SELECT a.attname, coalesce(nullif(t.typbasetype, 0), t.oid) = 'bytea'::regtype,
    coalesce(array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum), -1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
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
