# pg_topics: Apache Kafka's log inside PostgreSQL.
#
#   make && sudo make install      then shared_preload_libraries = 'pg_topics'
#   make installcheck              pg_regress and isolation, on a running server that has it
#   ./check                        all tests, on private servers
MODULE_big = pg_topics
EXTENSION = pg_topics
DATA = pg_topics--1.0.sql
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

REGRESS = $(patsubst sql/%.sql,%,$(wildcard sql/*.sql))
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(wildcard test/isolation/specs/*.spec))
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=output_iso
EXTRA_CLEAN = output_iso tmp_check

PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter
# for tests that stop processes at the steps of an operation (test/test_point.c)
ifdef TEST_POINTS
PG_CFLAGS += -DTOPICS_TEST_POINTS
OBJS += test/test_point.o
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)
