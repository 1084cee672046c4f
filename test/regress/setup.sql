\set ECHO none
-- What every pg_regress test begins with (included by \i).
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_topics;
RESET client_min_messages;
SET timezone = 'UTC';
\pset format unaligned
\pset tuples_only on
\pset null NULL

-- Runs a command: "ok", or its SQLSTATE and what it says.  Numbers of topics
-- differ from run to run, and between versions of PostgreSQL the advice about
-- a function that does not exist; a message of another style is marked.
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(E'\n',
		state || ': ' || message,
		'  detail: ' || CASE WHEN state <> '42883' THEN nullif(detail, '') END,
		'  hint: ' || CASE WHEN state <> '42883' THEN nullif(hint, '') END,
		CASE WHEN message ~ '^[A-Z][a-z]' OR message ~ '[.]$' THEN '  BAD STYLE' END),
		'\mt\d+(_\w+)?\M', 'tN\1', 'g');
END $$;

-- The log table of a topic, or one below it: log_table('x', '_p0_s1')
CREATE FUNCTION pg_temp.log_table(topic text, suffix text DEFAULT '') RETURNS text LANGUAGE sql AS
$$ SELECT 'topic_log.t' || t.topic_id || suffix FROM topic_log.topic t WHERE t.view = ('topic.' || quote_ident(topic))::regclass $$;

-- Records of a topic, in one line each
CREATE FUNCTION pg_temp.count(topic text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE result bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM topic.%I', topic) INTO result;
	RETURN result;
END $$;
\set ECHO all
