/*-------------------------------------------------------------------------
 *
 * guarded.c
 *		A row of an administration view, whatever has become of its topic.
 *
 * The views show all topics, so one that is damaged, say by a file that is
 * missing, must not take the others' rows along.  What is looked at for a row
 * is looked at in a subtransaction.  If that fails, the view shows the row
 * without what could not be found out, and a WARNING says why.  If it fails
 * since the topic was dropped meanwhile, there is no row.
 *
 * An error that is not about the topic is the statement's own: a cancel, a
 * serialization failure, a lack of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/inval.h"

#include "base/base.h"
#include "log/log.h"
#include "serve/serve.h"

/* Return true if the topic is there. */
static bool
topic_exists(Oid view_relid, int64 topic_id)
{
	Topic	   *topic;

	AcceptInvalidationMessages();
	topic = topics_catalog_get(view_relid, true);
	return topic && topic->topic_id == topic_id;
}

/*
 * Say what is wrong with a partition.  The message can tell of records, so it
 * is for those who see what fails for the topic (monitor.c).
 */
static void
warn_of_damage(Topic *topic, int32 partition, const ErrorData *error)
{
	bool		may_see = topics_catalog_is_monitor() || topics_catalog_is_owner(topic);

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not look at partition %d of topic \"%s\"", partition,
					NameStr(topic->name)),
			 may_see ? errdetail("%s", error->message) : 0));
}

/*
 * Call "look" for a partition.  Return GUARDED_DONE if it has succeeded,
 * GUARDED_DAMAGED with a warning if it has failed, and GUARDED_DROPPED if the
 * topic is no more.
 */
GuardedResult
topics_guarded_look(Topic *topic, int32 partition, Look look, void *arg)
{
	const Oid	view_relid = topic->view_relid;
	const int64 topic_id = topic->topic_id;
	ErrorData  *error = topics_subtransaction_try(look, arg);
	GuardedResult result = GUARDED_DONE;

	if (error == NULL)
		return result;
	if (topics_subtransaction_must_raise(error))
		ReThrowError(error);
	if (topic_exists(view_relid, topic_id))
	{
		warn_of_damage(topic, partition, error);
		result = GUARDED_DAMAGED;
	}
	else
		result = GUARDED_DROPPED;
	FreeErrorData(error);
	return result;
}
