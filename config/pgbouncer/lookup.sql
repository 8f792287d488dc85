-- Lets PgBouncer ask PostgreSQL for passwords (auth_query), so that no password has to be kept in its files. Run it as a
-- superuser in every database that clients use, and in template1 for databases to come. Replicas get it by replication.
-- Superusers are left out: they connect without PgBouncer.
CREATE OR REPLACE FUNCTION public.pgbouncer_lookup(wanted name)
    RETURNS TABLE (usename name, passwd text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT rolname, rolpassword FROM pg_authid
    WHERE rolname = wanted AND rolcanlogin AND NOT rolsuper AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
$$;
REVOKE ALL ON FUNCTION public.pgbouncer_lookup(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.pgbouncer_lookup(name) TO pgbouncer;
