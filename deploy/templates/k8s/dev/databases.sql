-- Written by `make deploy` from deploy/templates and services/*/service.toml.
[% for s in services %]
CREATE ROLE [[ s.name ]] LOGIN PASSWORD 'local-only';
CREATE DATABASE [[ s.name ]] OWNER [[ s.name ]];
REVOKE CONNECT ON DATABASE [[ s.name ]] FROM PUBLIC;
[% endfor %]
