/*-------------------------------------------------------------------------
 *
 * topic/topic.h
 *		Topics as their owners see them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_TOPIC_H
#define PG_TOPICS_TOPIC_H

#include "log/log.h"
#include "pg_topics.h"

/* ---- topic.c ---- */

extern void topics_topic_check_name(const char *name);
extern void topics_topic_drop_parts(const TopicParts *parts);
extern bool topics_topic_is_being_dropped(Oid view_relid);

#endif							/* PG_TOPICS_TOPIC_H */
