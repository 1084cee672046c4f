/*-------------------------------------------------------------------------
 *
 * peer.c
 *		A connection to another node, by libpq.
 *
 * Nothing here blocks in libpq: the process waits at its latch as well as at
 * the socket, so that it can be cancelled, and ends with the postmaster.  An
 * error, of the connection or of the other node, is raised as our own; the
 * caller closes the connection then.  That the other process was cancelled, or
 * is to end, is an error of the connection: of class 57 is only what happens
 * to this one.
 *
 * The other node speaks as pg_dump has it spoken to: what is sent as text means
 * the same at both ends, whatever is set for a role or a database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/base.h"
#include "node/node.h"

struct Peer
{
	PGconn	   *conn;
	char		node[MAX_NODE_NAME + 1];	/* its name, for messages */
	long		patience_ms;	/* to be connected */
};

/* Keywords of a connection, before and behind those of its conninfo. */
#define MAX_KEYWORDS 8

/*
 * A node that connects, or has been asked, is given up when it is silent so
 * long.
 */
#define SILENCE_MS 20000
#define MIN_SILENCE_MS 1000

/*
 * The same text at both ends; and the other end notices, too, when this one is
 * gone without a word.
 */
static const char *const peer_settings =
"SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
" SET tcp_user_timeout = '60 s';"
" SET search_path = pg_catalog; SET datestyle = ISO; SET intervalstyle = postgres;"
" SET extra_float_digits = 3; SET bytea_output = hex; SET timezone = 'GMT';"
" SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;"
" SET idle_session_timeout = 0; SET default_transaction_read_only = off;"
" SET row_security = off; SET default_transaction_isolation = 'read committed'; SET jit = off;"
" SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off; SET xmloption = content;";

#define TRANSACTION_TIMEOUT_VERSION 170000	/* the first server that has it */

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

/* Copy libpq's message, without its end of line. */
static char *
copy_message(const char *message)
{
	char	   *copy = pchomp(message ? message : "");

	return *copy ? copy : pstrdup("the connection was lost");
}

static void
report_connection(Peer *peer)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to node \"%s\" failed: %s", peer->node,
					copy_message(PQerrorMessage(peer->conn)))));
}

/*
 * What is needed of the role that a conninfo names; a schema's error does not
 * say it.
 */
const char *const topics_peer_roles_hint =
"By the leader's conninfo a node connects as a role with the attribute REPLICATION and membership in pg_read_all_data; by another node's, as a superuser. To be called from other nodes, as topics.move_leader() may be, the leader needs one of a superuser, too: topics.alter_node() gives it.";

/* Raise what the other node has raised; the result is cleared. */
static void
report_result(Peer *peer, PeerResult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	int			code = state ? MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]) :
		ERRCODE_CONNECTION_FAILURE;
	char	   *message;
	char	   *more;
	const char *cure;

	/* the other process was ended or cancelled, and not this one */
	if (ERRCODE_TO_CATEGORY(code) == ERRCODE_OPERATOR_INTERVENTION)
		code = ERRCODE_CONNECTION_FAILURE;
	message = primary ? pstrdup(primary) : copy_message(PQerrorMessage(peer->conn));
	more = detail ? pstrdup(detail) : NULL;
	cure = hint ? pstrdup(hint) : code == ERRCODE_INSUFFICIENT_PRIVILEGE ? topics_peer_roles_hint : NULL;
	PQclear(result);
	ereport(ERROR,
			(errcode(code),
			 errmsg("node \"%s\" reports: %s", peer->node, message),
			 more ? errdetail_internal("%s", more) : 0,
			 cure ? errhint("%s", cure) : 0));
}

/* ----------------------------------------------------------------
 *		Waiting
 * ----------------------------------------------------------------
 */

/*
 * Wait until the socket can be read or written, as "events" say.  Raise an
 * error if nothing happens there for timeout_ms, or -1.
 */
static void
wait_for_socket(Peer *peer, int events, long timeout_ms)
{
	int			happened = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events |
											 (timeout_ms >= 0 ? WL_TIMEOUT : 0), PQsocket(peer->conn),
											 timeout_ms, topics_wait_event_get(WAIT_PEER));

	if (happened & WL_TIMEOUT)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("node \"%s\" does not answer", peer->node),
				 errdetail("Nothing has come from it for %ld seconds.", timeout_ms / 1000)));
	if (happened & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Get the next result of what was sent, or NULL after the last one. */
static PeerResult *
get_result(Peer *peer, long timeout_ms)
{
	while (PQisBusy(peer->conn))
	{
		wait_for_socket(peer, WL_SOCKET_READABLE, timeout_ms);
		if (!PQconsumeInput(peer->conn))
			report_connection(peer);
	}
	return PQgetResult(peer->conn);
}

/* Get the last result of what was sent; it is cleared by the caller. */
static PeerResult *
get_last_result(Peer *peer, ExecStatusType expected, long timeout_ms)
{
	PeerResult *last = NULL;
	PeerResult *result;

	while ((result = get_result(peer, timeout_ms)) != NULL)
	{
		ExecStatusType status = PQresultStatus(result);

		if (status != expected && status != PGRES_COMMAND_OK)
			report_result(peer, result);
		PQclear(last);
		last = result;
	}
	if (last == NULL)
		report_connection(peer);
	return last;
}

/* ----------------------------------------------------------------
 *		Connections
 * ----------------------------------------------------------------
 */

/* Get the value of a keyword in a conninfo that was parsed, or NULL. */
static const char *
get_option(const PQconninfoOption *options, const char *keyword)
{
	for (; options->keyword; options++)
		if (strcmp(options->keyword, keyword) == 0)
			return options->val;
	return NULL;
}

/*
 * Append "keyword=value", quoted as libpq wants it, unless there is no value.
 */
static void
append_option(StringInfo text, const PQconninfoOption *options, const char *keyword)
{
	const char *value = get_option(options, keyword);

	if (value == NULL)
		return;
	appendStringInfo(text, "%s%s='", text->len > 0 ? " " : "", keyword);
	for (; *value; value++)
	{
		if (*value == '\'' || *value == '\\')
			appendStringInfoChar(text, '\\');
		appendStringInfoChar(text, *value);
	}
	appendStringInfoChar(text, '\'');
}

/*
 * Require a conninfo to be one, and return what clients may see of it: where
 * the database is, and nothing of who connects.  (libpq's message about a
 * conninfo may show a password, so it is not repeated.)
 */
char *
topics_peer_check_conninfo(const char *conninfo)
{
	char	   *message = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &message);
	StringInfoData text;

	if (options == NULL)
	{
		PQfreemem(message);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid conninfo"),
				 errhint("Use keywords of libpq, as in 'host=a.example port=5432 dbname=app user=node', or a URI.")));
	}
	initStringInfo(&text);
	append_option(&text, options, "host");
	append_option(&text, options, "hostaddr");
	append_option(&text, options, "port");
	append_option(&text, options, "dbname");
	PQconninfoFree(options);
	return text.data;
}

/* Take libpq to the end of a connection attempt. */
static void
finish_connecting(Peer *peer)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
	{
		wait_for_socket(peer, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE :
						PQstatus(peer->conn) == CONNECTION_STARTED ? WL_SOCKET_CONNECTED : WL_SOCKET_WRITEABLE, peer->patience_ms);
		status = PQconnectPoll(peer->conn);
	}
	if (status != PGRES_POLLING_OK)
		report_connection(peer);
}

/* Have the other end work as this one expects it to. */
static void
say_settings(Peer *peer)
{
	char	   *sql = psprintf("%s%s", peer_settings, PQserverVersion(peer->conn) >= TRANSACTION_TIMEOUT_VERSION ?
							   " SET transaction_timeout = 0" : "");

	if (!PQsendQuery(peer->conn, sql))
		report_connection(peer);
	topics_peer_clear(get_last_result(peer, PGRES_COMMAND_OK, peer->patience_ms));
	pfree(sql);
}

/* Connect to the node of this name, which the messages of errors give. */
Peer *
topics_peer_connect(const char *node, const char *conninfo)
{
	return topics_peer_connect_within(node, conninfo, SILENCE_MS);
}

/* The same; the node is given up when it is silent for so long. */
Peer *
topics_peer_connect_within(const char *node, const char *conninfo, long ms)
{
	/* a conninfo may say otherwise of what stands before it */
	const char *keywords[MAX_KEYWORDS] = {
		"keepalives_idle", "keepalives_interval", "keepalives_count", "dbname", "client_encoding",
		"fallback_application_name", NULL
	};
	const char *values[MAX_KEYWORDS] = {
		"10", "5", "3", conninfo, GetDatabaseEncodingName(), "pg_topics", NULL
	};
	Peer	   *peer = MemoryContextAlloc(TopMemoryContext, sizeof(Peer));

	strlcpy(peer->node, node, sizeof(peer->node));
	peer->patience_ms = ms;
	if (!AcquireExternalFD())
	{
		pfree(peer);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no file descriptor is left for a connection to node \"%s\"", node),
				 errhint("Raise max_files_per_process or the limit of the operating system.")));
	}
	peer->conn = PQconnectStartParams(keywords, values, true);
	if (peer->conn == NULL)
	{
		pfree(peer);
		ReleaseExternalFD();
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	PG_TRY();
	{
		if (PQstatus(peer->conn) == CONNECTION_BAD)
			report_connection(peer);
		finish_connecting(peer);
		say_settings(peer);
	}
	PG_CATCH();
	{
		topics_peer_close(peer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return peer;
}

/* Close a connection.  Raises nothing. */
void
topics_peer_close(Peer *peer)
{
	PQfinish(peer->conn);
	pfree(peer);
	ReleaseExternalFD();
}

/* ----------------------------------------------------------------
 *		Queries
 * ----------------------------------------------------------------
 */

/*
 * Run statements on the other node, without parameters, or one with some.  The
 * result is of the last one.
 */
PeerResult *
topics_peer_query(Peer *peer, const char *sql, const char *const *values, int nvalues)
{
	return topics_peer_query_within(peer, sql, values, nvalues, -1);
}

/* The same; the node is given up when it is silent for so long, or -1. */
PeerResult *
topics_peer_query_within(Peer *peer, const char *sql, const char *const *values, int nvalues, long ms)
{
	topics_peer_send(peer, sql, values, nvalues);
	return topics_peer_receive(peer, ms);
}

/* The same in two steps, so that several nodes work at once. */
void
topics_peer_send(Peer *peer, const char *sql, const char *const *values, int nvalues)
{
	int			sent = nvalues == 0 ? PQsendQuery(peer->conn, sql) :
		PQsendQueryParams(peer->conn, sql, nvalues, NULL, values, NULL, NULL, 0);

	if (!sent || PQflush(peer->conn) < 0)
		report_connection(peer);
}

PeerResult *
topics_peer_receive(Peer *peer, long ms)
{
	return get_last_result(peer, PGRES_TUPLES_OK, ms);
}

/* Get a value of a result as text, or NULL. */
const char *
topics_peer_value(const PeerResult *result, int row, int column)
{
	return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

int
topics_peer_count(const PeerResult *result)
{
	return PQntuples(result);
}

void
topics_peer_clear(PeerResult *result)
{
	PQclear(result);
}

/* Have the other node know a statement with one parameter, under a name. */
void
topics_peer_prepare(Peer *peer, const char *name, const char *sql)
{
	if (!PQsendPrepare(peer->conn, name, sql, 0, NULL))
		report_connection(peer);
	topics_peer_clear(get_last_result(peer, PGRES_COMMAND_OK, SILENCE_MS));
}

/* Send a prepared statement, whose parameter is bytes. */
void
topics_peer_send_bytes(Peer *peer, const char *name, const StringInfoData *bytes)
{
	const char *values[] = {bytes->data};
	const int	lengths[] = {bytes->len};
	const int	formats[] = {1};

	if (!PQsendQueryPrepared(peer->conn, name, 1, values, lengths, formats, 1))
		report_connection(peer);
	if (PQflush(peer->conn) < 0)
		report_connection(peer);
}

/*
 * Receive what it gives, one row of bytes, which are there until the result is
 * cleared.
 */
PeerResult *
topics_peer_receive_bytes(Peer *peer, StringInfo bytes)
{
	/* the leader answers by then, news or not; and another one is looked for */
	PeerResult *result = get_last_result(peer, PGRES_TUPLES_OK, topics_max(pg_topics_node_timeout, MIN_SILENCE_MS));

	memset(bytes, 0, sizeof(StringInfoData));
	if (PQntuples(result) == 1)
	{
		bytes->data = PQgetvalue(result, 0, 0);
		bytes->len = PQgetlength(result, 0, 0);
	}
	return result;
}

/* Connect to a node for one statement.  Return how many rows it gives. */
int
topics_peer_run(const char *node, const char *conninfo, const char *sql, const char *const *values,
				int nvalues)
{
	Peer	   *peer = topics_peer_connect(node, conninfo);
	volatile int count = 0;

	PG_TRY();
	{
		PeerResult *result = topics_peer_query(peer, sql, values, nvalues);

		count = topics_peer_count(result);
		topics_peer_clear(result);
	}
	PG_FINALLY();
	{
		topics_peer_close(peer);
	}
	PG_END_TRY();
	return count;
}

/*
 * Do something with other nodes, in a subtransaction.  Return NULL, or why it
 * has failed: whatever that was, this process can go on.  What is raised is
 * that it was cancelled, or is to end.
 */
ErrorData *
topics_peer_try(void (*work) (void *arg), void *arg)
{
	ErrorData  *error = topics_subtransaction_try(work, arg);

	if (error && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	return error;
}

/*
 * Wait until the next look at what another node has done.  The wait can be
 * cancelled.
 */
void
topics_peer_nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 topics_wait_event_get(WAIT_PEER));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
