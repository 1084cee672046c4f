/*
 * producers.c
 *	  Producers of a cluster's nodes, which go to the node that leads.
 *
 *	producers CLIENTS all|one SQL CONNINFO...
 *
 * Each client is a thread that runs one transaction after the other, until
 * standard input ends.  In SQL $1 is a value of VALUE_LENGTH bytes.  When a
 * node refuses it, or the connection is lost, the client tries it on the next
 * node at once, and so on; having tried all, it takes a nap.  With "one" it
 * connects to a node when it tries it, and stays connected to the one that
 * has taken the record; with "all" it is connected to all of them all the
 * time.
 *
 * At the end there is a line for each answer: when it came (CLOCK_MONOTONIC),
 * to which client, from which node (0 is the first), and the SQLSTATE, which is
 * 00000 for a record that was acknowledged, and 08000 for a connection that
 * failed.
 */
#include <libpq-fe.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VALUE_LENGTH 100
#define MAX_NODES 8
#define NAP_US 5000

typedef struct Answer
{
	double		time;
	int			node;
	char		sqlstate[6];
}			Answer;

typedef struct Client
{
	pthread_t	thread;
	PGconn	   *connections[MAX_NODES];
	int			node;			/* that leads, as far as we know */
	Answer	   *answers;
	long		count;
	long		size;
}			Client;

static const char *sql;
static char **conninfos;
static int	nodes;
static bool stays_connected;
static volatile bool ended;
static char value[VALUE_LENGTH + 1];

static void
fail(const char *what)
{
	fprintf(stderr, "producers: %s\n", what);
	exit(1);
}

static void
ignore_notice(void *arg, const PGresult *result)
{
	(void) arg;
	(void) result;
}

static void
note_answer(Client * client, int node, const char *sqlstate)
{
	struct timespec t;
	Answer	   *answer;

	if (client->count == client->size)
	{
		client->size = client->size ? 2 * client->size : 65536;
		client->answers = realloc(client->answers, client->size * sizeof(Answer));
		if (client->answers == NULL)
			fail("out of memory");
	}
	clock_gettime(CLOCK_MONOTONIC, &t);
	answer = &client->answers[client->count++];
	answer->time = t.tv_sec + t.tv_nsec / 1e9;
	answer->node = node;
	snprintf(answer->sqlstate, sizeof(answer->sqlstate), "%s", sqlstate);
}

static void
disconnect(Client * client, int node)
{
	PQfinish(client->connections[node]);
	client->connections[node] = NULL;
}

/* Connects to a node, if it can be reached */
static bool
reach(Client * client, int node)
{
	PGconn	   *conn = client->connections[node];
	PGresult   *result;

	if (conn && PQstatus(conn) == CONNECTION_OK)
		return true;
	disconnect(client, node);
	conn = client->connections[node] = PQconnectdb(conninfos[node]);
	if (PQstatus(conn) != CONNECTION_OK)
		return false;
	PQsetNoticeReceiver(conn, ignore_notice, NULL);
	result = PQprepare(conn, "s", sql, 0, NULL);
	PQclear(result);
	return PQstatus(conn) == CONNECTION_OK;
}

/* Whether a node has acknowledged a record */
static bool
produce(Client * client, int node)
{
	static const char *const values[] = {value};
	PGresult   *result;
	const char *sqlstate;
	bool		done;

	if (!reach(client, node))
	{
		note_answer(client, node, "08000");
		return false;
	}
	result = PQexecPrepared(client->connections[node], "s", 1, values, NULL, NULL, 0);
	done = PQresultStatus(result) == PGRES_TUPLES_OK;
	sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	note_answer(client, node, done ? "00000" : sqlstate ? sqlstate : "08000");
	PQclear(result);
	return done;
}

/* Of the nodes that a client is connected to only that one stays */
static void
settle(Client * client, int node)
{
	client->node = node;
	for (int i = 0; i < nodes && !stays_connected; i++)
		if (i != node)
			disconnect(client, i);
}

static void *
run_client(void *arg)
{
	Client	   *client = arg;

	for (int i = 0; i < nodes && stays_connected; i++)
		(void) reach(client, i);
	for (int tried = 0, node = 0; !ended;)
	{
		if (produce(client, node))
		{
			if (node != client->node || tried > 0)
				settle(client, node);
			tried = 0;
			continue;
		}
		node = (node + 1) % nodes;
		if (++tried % nodes == 0)
			usleep(NAP_US);
	}
	for (int i = 0; i < nodes; i++)
		disconnect(client, i);
	return NULL;
}

int
main(int argc, char **argv)
{
	int			count = argc > 1 ? atoi(argv[1]) : 0;
	Client	   *clients = calloc(count, sizeof(Client));

	nodes = argc - 4;
	if (clients == NULL || count < 1 || nodes < 1 || nodes > MAX_NODES)
	{
		fprintf(stderr, "usage: producers CLIENTS all|one SQL CONNINFO...\n");
		return 2;
	}
	stays_connected = strcmp(argv[2], "all") == 0;
	sql = argv[3];
	conninfos = argv + 4;
	memset(value, 'x', VALUE_LENGTH);
	for (int i = 0; i < count; i++)
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) != 0)
			fail("no thread");
	while (getchar() != EOF)
		;
	ended = true;
	for (int i = 0; i < count; i++)
	{
		pthread_join(clients[i].thread, NULL);
		for (long n = 0; n < clients[i].count; n++)
			printf("%.6f %d %d %s\n", clients[i].answers[n].time, i, clients[i].answers[n].node,
				   clients[i].answers[n].sqlstate);
	}
	return 0;
}
