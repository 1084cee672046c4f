/*
 * load.c
 *	  The bench's load generator: what pgbench cannot do.
 *
 * A program of one thread that runs one kind of load against the server that
 * libpq's environment variables name, and prints what it measured as one line
 * of JSON.
 *
 *	load statement SQL			one statement
 *	load arrays SQL				calls with an array of values
 *	load copy-in SQL			COPY ... FROM STDIN
 *	load copy-out SQL			COPY ... TO STDOUT
 *	load steps SQL				the same statement until it gives no row
 *	load rate SQL				one transaction after the other, on many
 *								connections, many in flight on each, as fast as
 *								possible or at a given rate; with latencies
 *	load wakeup SQL				the same, and a consumer who waits for each
 *								record; how long he waits after its commit
 *	load listen SQL				sessions that LISTEN, and read what comes
 *
 * In SQL, as in pgbench's scripts, ":value" is a parameter with a value of
 * VALUE_LENGTH bytes, ":random" one with a random number, ":client" one with
 * the number of the connection, ":position" one with the number of rows that
 * came so far, ":sequence" one with a value that begins with the number of the
 * transaction, ":array" one with an array of values.
 *
 * What is sent is made before the clock starts and sent again and again, so
 * that the client costs next to nothing: on a small machine the two share
 * their processors.
 *
 * Values are random letters and digits.  They are so short that PostgreSQL
 * does not try to compress them.
 */
#define _GNU_SOURCE				/* ppoll */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define VALUE_LENGTH 100
#define COPY_CHUNK_ROWS 500		/* about as much as libpq buffers at a time */
#define MAX_IN_FLIGHT 1024
#define MAX_PARAMETERS 4
#define TEXT_OID 25

typedef struct Options
{
	const char *sql;
	const char *before;			/* a statement to run first, outside the time */
	long		records;		/* to send, in all */
	long		per_call;		/* elements of an array */
	long		per_transaction;	/* records; 0: all of them */
	double		seconds;		/* instead of records, or of rate */
	double		warm_up;		/* seconds that are not counted */
	int			clients;
	int			in_flight;		/* per connection */
	bool		until_empty;	/* each connection, until a statement gives no
								 * row */
	double		rate;			/* transactions a second; 0: as fast as
								 * possible */
	long		random_below;
	const char *listen;			/* what wakeup's consumer does first */
	const char *wait;			/* how he waits; NULL: he has to be notified */
	const char *consume;
	bool		binary;
}			Options;

static Options options =
{
	.records = 1000000,.per_call = 10000,.seconds = 0,.clients = 1,.in_flight = 1,.random_below = 1
};

/* ----------------------------------------------------------------------
 * Time, values, buffers
 * ----------------------------------------------------------------------
 */

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "load: %s: %s\n", what, why);
	exit(1);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *
allocate(size_t size)
{
	void	   *result = malloc(size);

	if (result == NULL)
		fail("malloc", "out of memory");
	return result;
}

/* xorshift: the same values in each run */
static uint64_t
random_number(void)
{
	static uint64_t state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void
random_value(char *value)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

	for (int i = 0; i < VALUE_LENGTH; i++)
		value[i] = letters[random_number() % (sizeof(letters) - 1)];
}

/* Appends a number in network order, and returns where the next thing goes */
static char *
put_int32(char *to, uint32_t number)
{
	number = htonl(number);
	memcpy(to, &number, sizeof(number));
	return to + sizeof(number);
}

static char *
put_int16(char *to, uint16_t number)
{
	number = htons(number);
	memcpy(to, &number, sizeof(number));
	return to + sizeof(number);
}

/* ----------------------------------------------------------------------
 * Connections and statements
 * ----------------------------------------------------------------------
 */

static PGconn *
connect_server(void)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		fail("connect", PQerrorMessage(conn));
	return conn;
}

static PGresult *
require(PGconn *conn, PGresult *result, ExecStatusType expected)
{
	if (PQresultStatus(result) != expected)
		fail(options.sql, PQerrorMessage(conn));
	return result;
}

static void
execute(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		fail(sql, PQerrorMessage(conn));
	PQclear(result);
}

static PGconn *
open_session(void)
{
	PGconn	   *conn = connect_server();

	if (options.before)
		execute(conn, options.before);
	return conn;
}

/* What the parameters of a statement are, $1, $2, ... in the order of their names in the SQL */
typedef struct Statement
{
	int			nparams;
	const char *kinds[MAX_PARAMETERS];
} Statement;

/* Replaces ":name" by "$n" and prepares the result as "s" on each connection that is given */
static void
prepare(PGconn *conn, Statement *statement)
{
	static const char *const kinds[] = {":value", ":random", ":client", ":position", ":sequence", ":array"};
	char	   *sql = allocate(strlen(options.sql) + 1);
	char	   *to = sql;
	const char *from = options.sql;

	statement->nparams = 0;
	while (*from)
	{
		const char *kind = NULL;

		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
			if (strncmp(from, kinds[i], strlen(kinds[i])) == 0)
				kind = kinds[i];
		if (kind == NULL)
		{
			*to++ = *from++;
			continue;
		}
		if (statement->nparams == MAX_PARAMETERS)
			fail(options.sql, "too many parameters");
		statement->kinds[statement->nparams++] = kind;
		to += sprintf(to, "$%d", statement->nparams);
		from += strlen(kind);
	}
	*to = '\0';
	PQclear(require(conn, PQprepare(conn, "s", sql, 0, NULL), PGRES_COMMAND_OK));
	free(sql);
}

/* ----------------------------------------------------------------------
 * One statement; COPY; arrays
 * ----------------------------------------------------------------------
 */

static void
print_records(double started, long records)
{
	printf("{\"seconds\": %.6f, \"records\": %ld}\n", now() - started, records);
}

static void
run_statement(void)
{
	PGconn	   *conn = open_session();
	double		started = now();

	execute(conn, options.sql);
	print_records(started, options.records);
	PQfinish(conn);
}

/* Rows of one column with a value each, as COPY takes them */
static char *
make_copy_rows(int rows, int *length)
{
	char	   *buffer = allocate((size_t) rows * (VALUE_LENGTH + 8));
	char	   *to = buffer;

	for (int i = 0; i < rows; i++)
	{
		if (options.binary)
			to = put_int32(put_int16(to, 1), VALUE_LENGTH);
		random_value(to);
		to += VALUE_LENGTH;
		if (!options.binary)
			*to++ = '\n';
	}
	*length = to - buffer;
	return buffer;
}

static void
copy_rows_in(PGconn *conn, long records, const char *chunk, int length)
{
	static const char header[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0";
	static const char trailer[] = "\377\377";

	PQclear(require(conn, PQexec(conn, options.sql), PGRES_COPY_IN));
	if (options.binary && PQputCopyData(conn, header, 19) != 1)
		fail("COPY", PQerrorMessage(conn));
	for (long sent = 0; sent < records; sent += COPY_CHUNK_ROWS)
		if (PQputCopyData(conn, chunk, length) != 1)
			fail("COPY", PQerrorMessage(conn));
	if (options.binary && PQputCopyData(conn, trailer, 2) != 1)
		fail("COPY", PQerrorMessage(conn));
	if (PQputCopyEnd(conn, NULL) != 1)
		fail("COPY", PQerrorMessage(conn));
	PQclear(require(conn, PQgetResult(conn), PGRES_COMMAND_OK));
	while (PQgetResult(conn) != NULL)
		;
}

/* Whether to go on, after that many records and since then */
static bool
goes_on(double started, long records)
{
	return options.seconds > 0 ? now() - started < options.seconds : records < options.records;
}

static void
run_copy_in(void)
{
	PGconn	   *conn = open_session();
	int			length;
	char	   *chunk = make_copy_rows(COPY_CHUNK_ROWS, &length);
	long		per_transaction = options.per_transaction ? options.per_transaction : options.records;
	long		records = 0;
	double		started;

	if (per_transaction % COPY_CHUNK_ROWS != 0)
		fail("--per-transaction", "must be a multiple of 500");
	started = now();
	for (; goes_on(started, records); records += per_transaction)
		copy_rows_in(conn, per_transaction, chunk, length);
	print_records(started, records);
	PQfinish(conn);
}

/* A text[] as array_recv reads it */
static char *
make_array(long elements, int *length)
{
	char	   *buffer = allocate(20 + (size_t) elements * (4 + VALUE_LENGTH));
	char	   *to = buffer;

	to = put_int32(to, 1);		/* dimensions */
	to = put_int32(to, 0);		/* no NULLs */
	to = put_int32(to, TEXT_OID);
	to = put_int32(to, elements);
	to = put_int32(to, 1);		/* lower bound */
	for (long i = 0; i < elements; i++)
	{
		to = put_int32(to, VALUE_LENGTH);
		random_value(to);
		to += VALUE_LENGTH;
	}
	*length = to - buffer;
	return buffer;
}

static void
run_arrays(void)
{
	PGconn	   *conn = open_session();
	int			length;
	char	   *array = make_array(options.per_call, &length);
	int			format = 1;
	long		per_transaction = options.per_transaction ? options.per_transaction : options.records;
	bool		blocks = per_transaction > options.per_call;
	long		records = 0;
	Statement	statement;
	double		started;

	prepare(conn, &statement);
	if (statement.nparams != 1)
		fail(options.sql, "needs the parameter :array, and no other");
	started = now();
	while (goes_on(started, records))
	{
		if (blocks && records % per_transaction == 0)
			execute(conn, "BEGIN");
		PQclear(require(conn, PQexecPrepared(conn, "s", 1, (const char *const *) &array, &length, &format, 0), PGRES_TUPLES_OK));
		records += options.per_call;
		if (blocks && records % per_transaction == 0)
			execute(conn, "COMMIT");
	}
	print_records(started, records);
	PQfinish(conn);
}

/* ----------------------------------------------------------------------
 * Reading
 * ----------------------------------------------------------------------
 */

static void
run_copy_out(void)
{
	PGconn	   *conn = open_session();
	long		count = 0;
	double		started = now();
	char	   *row;
	int			length;

	PQclear(require(conn, PQexec(conn, options.sql), PGRES_COPY_OUT));
	while ((length = PQgetCopyData(conn, &row, 0)) > 0)
	{
		/* binary: the first row brings the header, the last is the trailer */
		if (!options.binary || length > 2)
			count++;
		PQfreemem(row);
	}
	if (length != -1)
		fail("COPY", PQerrorMessage(conn));
	PQclear(require(conn, PQgetResult(conn), PGRES_COMMAND_OK));
	print_records(started, count);
	PQfinish(conn);
}

static void
run_steps(void)
{
	PGconn	   *conn = open_session();
	char		position[32];
	const char *parameter = position;
	Statement	statement;
	long		rows = 0;
	double		started = now();

	prepare(conn, &statement);
	if (statement.nparams > 1 || (statement.nparams == 1 && strcmp(statement.kinds[0], ":position") != 0))
		fail(options.sql, "can have the parameter :position only");
	for (;;)
	{
		PGresult   *result;
		int			count;

		snprintf(position, sizeof(position), "%ld", rows);
		result = require(conn, PQexecPrepared(conn, "s", statement.nparams, &parameter, NULL, NULL, options.binary),
						 PGRES_TUPLES_OK);
		count = PQntuples(result);
		PQclear(result);
		if (count == 0)
			break;
		rows += count;
	}
	print_records(started, rows);
	PQfinish(conn);
}

/* ----------------------------------------------------------------------
 * Transactions at a rate, and their latencies
 * ----------------------------------------------------------------------
 */

typedef struct Client
{
	PGconn	   *conn;
	int			number;
	bool		ended;			/* of --until-empty */
	int			in_flight;
	int			oldest;			/* index in the two rings */
	double		due[MAX_IN_FLIGHT]; /* when each should have been sent */
	long		sequence[MAX_IN_FLIGHT];	/* its number */
}			Client;

/* What becomes of a transaction, by its number: 0 until it happens */
typedef struct Journey
{
	double		due;
	double		committed;		/* its producer was told so */
	double		received;		/* the consumer has the record */
}			Journey;

typedef struct Latencies
{
	double	   *seconds;
	long		count;
	long		size;
}			Latencies;

static void
latencies_add(Latencies * latencies, double seconds)
{
	if (latencies->count == latencies->size)
	{
		latencies->size = latencies->size ? latencies->size * 2 : 65536;
		latencies->seconds = realloc(latencies->seconds, latencies->size * sizeof(double));
		if (latencies->seconds == NULL)
			fail("realloc", "out of memory");
	}
	latencies->seconds[latencies->count++] = seconds;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

/* In milliseconds; of sorted latencies the smallest that is not below the share */
static double
latencies_percentile(const Latencies * latencies, double share)
{
	long		index = (long) (share * latencies->count);

	if (latencies->count == 0)
		return 0;
	return latencies->seconds[index < latencies->count ? index : latencies->count - 1] * 1000;
}

/* Transactions that were sent, rows that they returned, records that a consumer received, so far */
static long sent = 0;
static long rows = 0;
static long received = 0;
static Journey * journeys = NULL;	/* of each transaction; only in wakeup */

static void
client_send(Client * client, const Statement *statement, double due)
{
	char		value[VALUE_LENGTH + 1];
	char		sequence[VALUE_LENGTH + 1];
	char		random[32];
	char		number[32];
	const char *parameters[MAX_PARAMETERS];
	int			slot = (client->oldest + client->in_flight) % MAX_IN_FLIGHT;

	random_value(value);
	value[VALUE_LENGTH] = '\0';
	snprintf(sequence, sizeof(sequence), "%-*ld", VALUE_LENGTH, sent);
	snprintf(random, sizeof(random), "%lu", (unsigned long) (random_number() % options.random_below));
	snprintf(number, sizeof(number), "%d", client->number);
	for (int i = 0; i < statement->nparams; i++)
	{
		const char *kind = statement->kinds[i];

		parameters[i] = strcmp(kind, ":value") == 0 ? value :
			strcmp(kind, ":random") == 0 ? random :
			strcmp(kind, ":client") == 0 ? number :
			strcmp(kind, ":sequence") == 0 ? sequence : NULL;
		if (parameters[i] == NULL)
			fail(options.sql, "can have the parameters :value, :random, :client and :sequence only");
	}
	if (!PQsendQueryPrepared(client->conn, "s", statement->nparams, parameters, NULL, NULL, options.binary) ||
		!PQpipelineSync(client->conn))
		fail(options.sql, PQerrorMessage(client->conn));
	client->due[slot] = due;
	client->sequence[slot] = sent++;
	client->in_flight++;
}

/* Takes what has arrived, and notes how long it took */
static void
client_receive(Client * client, Latencies * latencies, double count_from)
{
	if (!PQconsumeInput(client->conn))
		fail(options.sql, PQerrorMessage(client->conn));
	while (client->in_flight > 0 && !PQisBusy(client->conn))
	{
		PGresult   *result = PQgetResult(client->conn);
		ExecStatusType status = PQresultStatus(result);

		if (result == NULL)
			continue;			/* the end of a statement; its sync comes next */
		if (status == PGRES_PIPELINE_SYNC)
		{
			double		due = client->due[client->oldest];
			double		t = now();

			if (due >= count_from)
				latencies_add(latencies, t - due);
			if (journeys)
			{
				journeys[client->sequence[client->oldest]].due = due;
				journeys[client->sequence[client->oldest]].committed = t;
			}
			client->oldest = (client->oldest + 1) % MAX_IN_FLIGHT;
			client->in_flight--;
		}
		else if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		{
			rows += PQntuples(result);
			if (options.until_empty && PQntuples(result) == 0)
				client->ended = true;
		}
		else
			fail(options.sql, PQresultErrorMessage(result));
		PQclear(result);
	}
}

static Client *
open_clients(Statement *statement)
{
	Client	   *clients = allocate(options.clients * sizeof(Client));

	for (int i = 0; i < options.clients; i++)
	{
		clients[i].conn = open_session();
		clients[i].number = i;
		clients[i].ended = false;
		clients[i].in_flight = clients[i].oldest = 0;
		prepare(clients[i].conn, statement);
		if (!PQenterPipelineMode(clients[i].conn))
			fail("pipeline mode", PQerrorMessage(clients[i].conn));
	}
	return clients;
}

/*
 * Sends what is due.  Without a rate everything that has room is; with one, a
 * transaction each 1 / rate seconds, to the next client that has room.  If none
 * has, it waits, and its latency counts from when it was due: otherwise one
 * long stall would count as one slow transaction and hide those that nobody
 * could send meanwhile.
 */
static void
send_due(Client * clients, const Statement *statement, double *next_due)
{
	static int	turn = 0;
	double		t = now();

	if (options.rate == 0)
	{
		for (int i = 0; i < options.clients; i++)
			while (clients[i].in_flight < options.in_flight && !clients[i].ended)
				client_send(&clients[i], statement, t);
		return;
	}
	for (int tried = 0; *next_due <= t && tried < options.clients; tried++)
	{
		Client	   *client = &clients[turn++ % options.clients];

		if (client->in_flight >= options.in_flight)
			continue;
		client_send(client, statement, *next_due);
		*next_due += 1 / options.rate;
		tried = -1;
	}
}

/*
 * Waits until something arrives at one of the connections, or the next
 * transaction is due.  If that is overdue, no client has room, and one becomes
 * free by an answer.
 */
static void
wait_for_input(struct pollfd *polls, int count, double next_due)
{
	struct timespec timeout = {0, 100000000};
	double		wait = next_due - now();

	if (options.rate > 0 && wait > 0 && wait < 0.1)
		timeout.tv_nsec = (long) (wait * 1e9);
	if (ppoll(polls, count, &timeout, NULL) < 0 && errno != EINTR)
		fail("ppoll", strerror(errno));
}

static void
print_latencies(double seconds, Latencies * latencies)
{
	qsort(latencies->seconds, latencies->count, sizeof(double), compare_doubles);
	printf("{\"seconds\": %.6f, \"records\": %ld, \"rows\": %ld, \"rate\": %.1f, "
		   "\"p50\": %.4f, \"p99\": %.4f, \"p99.9\": %.4f, \"max\": %.4f}\n",
		   seconds, latencies->count, rows, latencies->count / seconds,
		   latencies_percentile(latencies, 0.5), latencies_percentile(latencies, 0.99),
		   latencies_percentile(latencies, 0.999), latencies_percentile(latencies, 1));
}

static bool
all_ended(const Client * clients)
{
	for (int i = 0; i < options.clients; i++)
		if (!clients[i].ended)
			return false;
	return true;
}

static void
run_rate(void)
{
	Statement	statement;
	Client	   *clients = open_clients(&statement);
	struct pollfd *polls = allocate(options.clients * sizeof(struct pollfd));
	Latencies	latencies = {0};
	double		started = now();
	double		count_from = started + options.warm_up;
	double		end = count_from + options.seconds;
	double		next_due = started;

	for (int i = 0; i < options.clients; i++)
		polls[i] = (struct pollfd)
	{
		.fd = PQsocket(clients[i].conn),.events = POLLIN
	};
	while (now() < end && !all_ended(clients))
	{
		send_due(clients, &statement, &next_due);
		wait_for_input(polls, options.clients, next_due);
		for (int i = 0; i < options.clients; i++)
			if (polls[i].revents)
				client_receive(&clients[i], &latencies, count_from);
	}
	if (options.until_empty && !all_ended(clients))
		fail(options.sql, "rows kept coming");
	print_latencies(options.until_empty ? now() - started : options.seconds, &latencies);
	for (int i = 0; i < options.clients; i++)
		PQfinish(clients[i].conn);
}

/* ----------------------------------------------------------------------
 * From a producer's commit to a consumer
 * ----------------------------------------------------------------------
 */

typedef struct Follower
{
	PGconn	   *conn;
	enum
	{
		CONSUMING, WAITING, IDLE
	}			state;
	bool		notified;		/* since he began to consume */
	bool		got_rows;
} Follower;

static void
follower_send(Follower *follower, const char *sql)
{
	if (!PQsendQuery(follower->conn, sql))
		fail(sql, PQerrorMessage(follower->conn));
	follower->got_rows = false;
	if (sql == options.consume)
		follower->notified = false;
	follower->state = sql == options.consume ? CONSUMING : WAITING;
}

/* The first column of what is consumed is the value, which begins with the number that its producer gave it */
static void
follower_note(Follower *follower, const PGresult *result, double t)
{
	for (int i = 0; i < PQntuples(result); i++)
	{
		long		sequence = atol(PQgetvalue(result, i, 0));

		if (sequence < 0 || sequence >= sent || journeys[sequence].received != 0)
			fail(options.consume, "a record that was not expected");
		journeys[sequence].received = t;
		received++;
	}
	follower->got_rows |= PQntuples(result) > 0;
}

/* What to do after a statement: consume while there are records, then wait */
static void
follower_next(Follower *follower)
{
	if (follower->state == WAITING || follower->got_rows || follower->notified)
		follower_send(follower, options.consume);
	else if (options.wait)
		follower_send(follower, options.wait);
	else
		follower->state = IDLE;
}

static void
follower_receive(Follower *follower)
{
	PGnotify   *notify;

	if (!PQconsumeInput(follower->conn))
		fail(options.consume, PQerrorMessage(follower->conn));
	while ((notify = PQnotifies(follower->conn)) != NULL)
	{
		follower->notified = true;
		PQfreemem(notify);
	}
	if (follower->state == IDLE && follower->notified)
		follower_send(follower, options.consume);
	while (follower->state != IDLE && !PQisBusy(follower->conn))
	{
		PGresult   *result = PQgetResult(follower->conn);
		ExecStatusType status = PQresultStatus(result);

		if (result == NULL)
			follower_next(follower);
		else if (status == PGRES_TUPLES_OK)
			follower_note(follower, result, now());
		else if (status != PGRES_COMMAND_OK)
			fail(options.consume, PQresultErrorMessage(result));
		PQclear(result);
	}
}

/*
 * Producers as in run_rate, and one consumer.  Prints how long after the
 * answer to its producer's commit the consumer has a record; 0 if he has it
 * before.  Fails if a record does not come within ten seconds after the end.
 */
static void
run_wakeup(void)
{
	Statement	statement;
	Client	   *clients = open_clients(&statement);
	Follower	follower = {.conn = connect_server()};
	int			count = options.clients + 1;
	struct pollfd *polls = allocate(count * sizeof(struct pollfd));
	long		size = (long) (options.rate * (options.warm_up + options.seconds)) + 1000;
	Latencies	commits = {0};
	Latencies	latencies = {0};
	double		started,
				end,
				next_due;

	if (options.consume == NULL || options.rate == 0)
		fail("wakeup", "needs --consume and --rate");
	journeys = calloc(size, sizeof(Journey));
	if (journeys == NULL)
		fail("calloc", "out of memory");
	if (options.listen)
		execute(follower.conn, options.listen);
	for (int i = 0; i < options.clients; i++)
		polls[i] = (struct pollfd)
	{
		.fd = PQsocket(clients[i].conn),.events = POLLIN
	};
	polls[options.clients] = (struct pollfd)
	{
		.fd = PQsocket(follower.conn),.events = POLLIN
	};
	follower_send(&follower, options.consume);

	started = next_due = now();
	end = started + options.warm_up + options.seconds;
	while (now() < end || (received < sent && now() < end + 10))
	{
		if (now() < end)
			send_due(clients, &statement, &next_due);
		else
			next_due = now() + 1;
		wait_for_input(polls, count, next_due);
		for (int i = 0; i < options.clients; i++)
			if (polls[i].revents)
				client_receive(&clients[i], &commits, end);
		if (polls[options.clients].revents)
			follower_receive(&follower);
	}
	for (long i = 0; i < sent; i++)
	{
		const		Journey *journey = &journeys[i];

		if (journey->received == 0)
			fail(options.consume, "records did not come");
		if (journey->committed != 0 && journey->due >= started + options.warm_up)
			latencies_add(&latencies, journey->received > journey->committed ? journey->received - journey->committed : 0);
	}
	print_latencies(options.seconds, &latencies);
	PQfinish(follower.conn);
	for (int i = 0; i < options.clients; i++)
		PQfinish(clients[i].conn);
}

/* Sessions that have executed SQL, LISTEN say, and take what they are sent, for some seconds */
static void
run_listen(void)
{
	PGconn	  **connections = allocate(options.clients * sizeof(PGconn *));
	struct pollfd *polls = allocate(options.clients * sizeof(struct pollfd));
	double		end = now() + options.seconds;
	PGnotify   *notify;

	for (int i = 0; i < options.clients; i++)
	{
		connections[i] = open_session();
		execute(connections[i], options.sql);
		polls[i] = (struct pollfd)
		{
			.fd = PQsocket(connections[i]),.events = POLLIN
		};
	}
	while (now() < end)
	{
		wait_for_input(polls, options.clients, 0);
		for (int i = 0; i < options.clients; i++)
		{
			if (polls[i].revents && !PQconsumeInput(connections[i]))
				fail(options.sql, PQerrorMessage(connections[i]));
			while ((notify = PQnotifies(connections[i])) != NULL)
			{
				rows++;
				PQfreemem(notify);
			}
		}
	}
	printf("{\"seconds\": %.6f, \"rows\": %ld}\n", options.seconds, rows);
}

/* ----------------------------------------------------------------------
 * Command line
 * ----------------------------------------------------------------------
 */

static const struct
{
	const char *name;
	void		(*run) (void);
}			loads[] = {
	{"statement", run_statement},
	{"arrays", run_arrays},
	{"copy-in", run_copy_in},
	{"copy-out", run_copy_out},
	{"steps", run_steps},
	{"rate", run_rate},
	{"wakeup", run_wakeup},
	{"listen", run_listen},
};

static const struct option long_options[] = {
	{"before", required_argument, NULL, 'b'},
	{"records", required_argument, NULL, 'n'},
	{"per-call", required_argument, NULL, 'a'},
	{"per-transaction", required_argument, NULL, 't'},
	{"seconds", required_argument, NULL, 's'},
	{"warm-up", required_argument, NULL, 'w'},
	{"clients", required_argument, NULL, 'c'},
	{"in-flight", required_argument, NULL, 'f'},
	{"rate", required_argument, NULL, 'r'},
	{"random-below", required_argument, NULL, 'm'},
	{"until-empty", no_argument, NULL, 'e'},
	{"listen", required_argument, NULL, 'L'},
	{"wait", required_argument, NULL, 'W'},
	{"consume", required_argument, NULL, 'C'},
	{"binary", no_argument, NULL, 'B'},
	{0}
};

int
main(int argc, char **argv)
{
	int			c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		switch (c)
		{
			case 'b':
				options.before = optarg;
				break;
			case 'n':
				options.records = atol(optarg);
				break;
			case 'a':
				options.per_call = atol(optarg);
				break;
			case 't':
				options.per_transaction = atol(optarg);
				break;
			case 's':
				options.seconds = atof(optarg);
				break;
			case 'w':
				options.warm_up = atof(optarg);
				break;
			case 'c':
				options.clients = atoi(optarg);
				break;
			case 'f':
				options.in_flight = atoi(optarg);
				break;
			case 'r':
				options.rate = atof(optarg);
				break;
			case 'm':
				options.random_below = atol(optarg);
				break;
			case 'e':
				options.until_empty = true;
				break;
			case 'L':
				options.listen = optarg;
				break;
			case 'W':
				options.wait = optarg;
				break;
			case 'C':
				options.consume = optarg;
				break;
			case 'B':
				options.binary = true;
				break;
			default:
				return 2;
		}
	if (argc - optind != 2 || options.in_flight > MAX_IN_FLIGHT)
	{
		fprintf(stderr, "usage: load [options] statement|arrays|copy-in|copy-out|steps|rate|wakeup|listen SQL\n");
		return 2;
	}
	options.sql = argv[optind + 1];
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (strcmp(argv[optind], loads[i].name) == 0)
		{
			loads[i].run();
			return 0;
		}
	fail(argv[optind], "no such load");
	return 2;
}
