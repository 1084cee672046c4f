# pg_topics: Apache Kafka's log inside PostgreSQL.
#
#   make && sudo make install      then shared_preload_libraries = 'pg_topics'
#   make installcheck              pg_regress and isolation, on a running server that has it
#   make indent                    the sources in PostgreSQL's form (test/indent)
#   ./check                        all tests, on private servers
#
# Also from another directory: make -f .../pg_topics/Makefile
MODULE_big = pg_topics
EXTENSION = pg_topics
DATA = pg_topics--1.0.sql
OBJS = $(patsubst $(srcdir)/%.c,%.o,$(sort $(wildcard $(srcdir)/src/*.c $(srcdir)/src/*/*.c)))

names_of = $(sort $(basename $(notdir $(wildcard $(srcdir)/$(1)))))
REGRESS = $(call names_of,sql/*.sql)
ISOLATION = $(call names_of,test/isolation/specs/*.spec)
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation --outputdir=output_iso
EXTRA_CLEAN = output_iso tmp_check

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
SHLIB_LINK = $(libpq)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter
# for tests that stop processes at the steps of an operation (test/test_point.c)
ifdef TEST_POINTS
PG_CFLAGS += -DTOPICS_TEST_POINTS
OBJS += test/test_point.o
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS) $(OBJS:.o=.bc): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

# out of tree, the folders of the objects are not there yet
ifneq ($(VPATH),)
$(shell mkdir -p $(sort $(dir $(OBJS))))
endif

.PHONY: indent
indent:
	$(srcdir)/test/indent
