-- catalog: every object of the extension is described, closed to PUBLIC, and
-- safe from the caller's search_path.  What these list is what is wrong.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
CREATE VIEW catalog_member AS
SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object FROM pg_depend d
	WHERE d.refclassid = 'pg_extension'::regclass
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_topics')
		AND d.deptype = 'e';

-- all that there is, with each function's arguments
SELECT object FROM catalog_member
	WHERE classid <> 'pg_type'::regclass
		OR objid NOT IN
			(SELECT reltype FROM pg_class WHERE reltype <> 0 UNION SELECT typarray FROM pg_type)
	ORDER BY object COLLATE "C";
-- no input parameter has a name that needs quotes
SELECT object, n
	FROM catalog_member JOIN pg_proc p ON p.oid = objid, unnest(proargnames, proargmodes) a (n, m)
	WHERE classid = 'pg_proc'::regclass AND coalesce(m, 'i') = 'i' AND quote_ident(n) <> n;

-- without a comment
SELECT object FROM catalog_member
	WHERE classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass,
			'pg_am'::regclass)
		AND coalesce(obj_description(objid, classid::regclass::text), '') = ''
	ORDER BY 1;
SELECT object, attname FROM catalog_member JOIN pg_attribute ON attrelid = objid AND attnum > 0
	WHERE classid = 'pg_class'::regclass
		AND object LIKE 'view %'
		AND coalesce(col_description(objid, attnum), '') = ''
	ORDER BY 1, 2;
SELECT obj_description(oid, 'pg_extension') IS NOT NULL
	FROM pg_extension
	WHERE extname = 'pg_topics';

-- with a right of PUBLIC: of functions, those that views call
SELECT object
	FROM catalog_member JOIN pg_proc p ON p.oid = objid,
		aclexplode(coalesce(proacl, acldefault('f', proowner))) a
	WHERE classid = 'pg_proc'::regclass AND a.grantee = 0
	ORDER BY object COLLATE "C";
SELECT object
	FROM catalog_member JOIN pg_class c ON c.oid = objid,
		aclexplode(coalesce(relacl, acldefault('r', relowner))) a
	WHERE classid = 'pg_class'::regclass AND a.grantee = 0;
SELECT object
	FROM catalog_member JOIN pg_namespace n ON n.oid = objid,
		aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
	WHERE classid = 'pg_namespace'::regclass AND a.grantee = 0;

-- not in C and without a fixed search_path; security definer; parallel safe though it writes
SELECT object
	FROM catalog_member JOIN pg_proc p ON p.oid = objid JOIN pg_language l ON l.oid = prolang
	WHERE classid = 'pg_proc'::regclass
		AND lanname <> 'c'
		AND NOT coalesce(proconfig::text ~ 'search_path', false);
SELECT object FROM catalog_member JOIN pg_proc p ON p.oid = objid
	WHERE classid = 'pg_proc'::regclass
		AND (prosecdef OR (proparallel <> 'u' AND provolatile = 'v'));
-- a view that hides rows, but not from a leaky function
SELECT object FROM catalog_member
	WHERE classid = 'pg_class'::regclass
		AND object LIKE 'view %'
		AND pg_get_viewdef(objid) ~ 'may_see'
		AND NOT coalesce((SELECT reloptions::text ~ 'security_barrier=true' FROM pg_class
				WHERE oid = objid),
			false);

-- a topic leaves no right of PUBLIC either, and its log tables are for who owns its view, to read
CREATE ROLE regress_catalog_owner;
SELECT topics.create_topic('catalog_topic', 2);
ALTER VIEW topic.catalog_topic OWNER TO regress_catalog_owner;
SELECT regexp_replace(relname, '^t\d+', 't'), a.grantee::regrole, a.privilege_type
	FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner))) a
	WHERE (relnamespace = 'topic'::regnamespace
			OR relname ~ ('^' || split_part(pg_temp.log_table('catalog_topic'), '.', 2) || '(_|$)'))
		AND (a.grantee = 0
			OR (a.grantee = 'regress_catalog_owner'::regrole
				AND relnamespace <> 'topic'::regnamespace))
	ORDER BY 1;

-- what dump takes along
SELECT unnest(extconfig)::regclass FROM pg_extension WHERE extname = 'pg_topics';
-- topics are not the extension's: it goes only with CASCADE
SELECT split_part(pg_temp.try('DROP EXTENSION pg_topics'), E'\n', 1);
-- settings
SELECT name, setting, unit, vartype, context, min_val, max_val, short_desc
	FROM pg_settings
	WHERE name LIKE 'pg\_topics.%' AND name <> 'pg_topics.max_partitions'
	ORDER BY name;
SELECT unit, context, min_val, max_val FROM pg_settings WHERE name = 'pg_topics.max_partitions';
SELECT pg_temp.try($$SET pg_topics.nosuch = 1$$),
	pg_temp.try($$SET pg_topics.max_partitions = 5$$),
	pg_temp.try($$SET pg_topics.worker_interval = 5$$);

SELECT topics.drop_topic('catalog_topic');
DROP VIEW catalog_member;
DROP ROLE regress_catalog_owner;
