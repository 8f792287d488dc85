-- For carry_auth_query of pgvane: gives the SCRAM verifier of a role that may log in, and is neither a superuser nor for
-- replication.
-- Run it as a superuser, in the database in which pgvane asks (carry_auth_database). The role is that of [cluster.sql].

CREATE SCHEMA pgvane;
GRANT USAGE ON SCHEMA pgvane TO pgvane;

CREATE FUNCTION pgvane.verifier(role text, OUT rolname text, OUT verifier text) RETURNS SETOF record
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT rolname::text, rolpassword FROM pg_authid
        WHERE rolname = role AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
    $$;

REVOKE ALL ON FUNCTION pgvane.verifier(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgvane.verifier(text) TO pgvane;
