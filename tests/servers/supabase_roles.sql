-- What hosted Supabase has before a project adds anything: roles, for the whole server. Run once.
-- The password of the login roles is put in place of :password.

CREATE ROLE anon NOLOGIN NOINHERIT;
CREATE ROLE authenticated NOLOGIN NOINHERIT;
CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;

-- The role that PostgREST logs in as, to become one of the three.
CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD :password;
GRANT anon, authenticated, service_role TO authenticator;

-- Theirs, so that what is too slow there is too slow here.
ALTER ROLE anon SET statement_timeout = '3s';
ALTER ROLE authenticated SET statement_timeout = '8s';
ALTER ROLE authenticator SET statement_timeout = '8s';
ALTER ROLE authenticator SET lock_timeout = '8s';

-- What they call postgres: it owns what projects make, and is no superuser.
CREATE ROLE supabase_owner LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS PASSWORD :password;
GRANT anon, authenticated, service_role TO supabase_owner WITH ADMIN OPTION;
