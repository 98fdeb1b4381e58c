"""Accounts: users, tokens, sessions, the key that signs them, and tries to sign in."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE users (
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    is_disabled BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by TEXT NOT NULL,
    signed_in_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_users PRIMARY KEY (name)
);

CREATE TABLE api_tokens (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    role TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_tokens PRIMARY KEY (id),
    CONSTRAINT uq_api_tokens_hash UNIQUE (hash)
);

CREATE UNIQUE INDEX uq_api_tokens_valid_name ON api_tokens (name) WHERE revoked_at IS NULL;

CREATE TABLE sign_in_sessions (
    id UUID NOT NULL,
    user_name TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_sign_in_sessions PRIMARY KEY (id),
    CONSTRAINT fk_sign_in_sessions_user_name_users FOREIGN KEY(user_name) REFERENCES users (name)
);

CREATE INDEX ix_sign_in_sessions_user_name ON sign_in_sessions (user_name);

CREATE INDEX ix_sign_in_sessions_ended_at ON sign_in_sessions (ended_at);

CREATE TABLE refresh_tokens (
    hash BYTEA NOT NULL,
    session_id UUID NOT NULL,
    issued_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_refresh_tokens PRIMARY KEY (hash),
    CONSTRAINT fk_refresh_tokens_session_id_sign_in_sessions FOREIGN KEY(session_id)
        REFERENCES sign_in_sessions (id) ON DELETE CASCADE
);

CREATE INDEX ix_refresh_tokens_session_id ON refresh_tokens (session_id);

CREATE TABLE sign_in_attempts (
    key BYTEA NOT NULL,
    count INTEGER NOT NULL,
    since_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_sign_in_attempts PRIMARY KEY (key)
);

CREATE INDEX ix_sign_in_attempts_since_at ON sign_in_attempts (since_at);

CREATE TABLE one_time_links (
    hash BYTEA NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_one_time_links PRIMARY KEY (hash)
);

CREATE TABLE account_state (
    id SMALLINT NOT NULL,
    change BIGINT NOT NULL,
    signing_key BYTEA,
    CONSTRAINT pk_account_state PRIMARY KEY (id)
);

INSERT INTO account_state (id, change) VALUES (1, 0);
"""


def upgrade() -> None:
    op.execute(_TABLES)
