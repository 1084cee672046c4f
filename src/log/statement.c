/*-------------------------------------------------------------------------
 *
 * statement.c
 *		Statements that make, change and drop topics, by SPI.
 *
 * They run as the extension's owner, which owns the catalogue and the log
 * tables; those about roles, as the caller.  They have a fixed search_path, and
 * are built from numbers and quoted names only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "base/base.h"
#include "log/log.h"

static int
begin_settings(void)
{
	int			guc_level = NewGUCNestLevel();

	topics_settings_override("search_path", "pg_catalog, pg_temp");
	topics_settings_override("default_tablespace", "");
	return guc_level;
}

/* From here on, until topics_statement_end, statements can be run. */
StatementScope
topics_statement_begin(void)
{
	StatementScope scope;

	scope.guc_level = begin_settings();
	scope.owner = topics_extension_become_owner();
	SPI_connect();
	return scope;
}

/* The same, with the caller's own rights. */
StatementScope
topics_statement_begin_as_caller(void)
{
	StatementScope scope;

	scope.guc_level = begin_settings();
	GetUserIdAndSecContext(&scope.owner.userid, &scope.owner.context);
	SPI_connect();
	return scope;
}

/* The caller is itself again, and sees what was done. */
void
topics_statement_end(StatementScope scope)
{
	SPI_finish();
	topics_extension_become_caller(scope.owner);
	AtEOXact_GUC(false, scope.guc_level);
	CommandCounterIncrement();
}

/* Run a statement. */
void
topics_statement_execute(const char *format,...)
{
	StringInfoData sql;
	int			needed;

	initStringInfo(&sql);
	do
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&sql, format, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&sql, needed);
	} while (needed > 0);

	if (SPI_execute(sql.data, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql.data);
	pfree(sql.data);
}

/*
 * The last statement must have changed rows: in REPEATABLE READ it does not
 * see a catalogue row that another session has changed.
 */
void
topics_statement_require_change(void)
{
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent change of the topic")));
}
