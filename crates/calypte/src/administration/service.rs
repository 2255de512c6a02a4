//! What the administration socket answers.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use calypte_control::Control;
use calypte_store::{FUNCTIONS_PAGE_MAX, KeyStatus, StoreError};
use calypte_types::{AccessKeyId, FunctionName, IdError};
use calypte_worker::Worker;
use futures_util::stream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Account, Key, KeyChange, LOG_LINES_MAX, LogQuery, NewAccount, Refusal, Status};
use crate::platform::{AccountError, AccountLimit};
use crate::suggestion;

/// What the answers are made of.
pub(crate) struct Administration {
    pub(crate) control: Arc<Control>,
    pub(crate) accounts: AccountLimit,
    pub(crate) worker: Arc<Worker>,
    pub(crate) endpoint: String,
}

type Shared = State<Arc<Administration>>;

/// All requests.
pub(crate) fn router(administration: Administration) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/accounts", get(accounts).post(add_account))
        .route("/accounts/{account}/keys", get(keys).post(add_key))
        .route("/keys/{id}", put(change_key).delete(remove_key))
        .route("/accounts/{account}/functions/{name}/log", get(log))
        .with_state(Arc::new(administration))
}

/// Why a request was refused, with its status.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { message: self.1 })).into_response()
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::One => Self(StatusCode::FORBIDDEN, error.to_string()),
            AccountError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::AccountNotFound(_) | StoreError::AccessKeyNotFound(_) | StoreError::FunctionNotFound { .. } => {
                StatusCode::NOT_FOUND
            }
            StoreError::AccountExists(_) | StoreError::FunctionExists { .. } | StoreError::RevisionMismatch { .. } => {
                StatusCode::CONFLICT
            }
            StoreError::AccountName(_) | StoreError::TooManyAccessKeys { .. } => StatusCode::BAD_REQUEST,
            StoreError::Damaged { .. } | StoreError::Entropy(_) | StoreError::Database { .. } | StoreError::Blob(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "administration failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self(status, error.to_string())
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

async fn status(State(shared): Shared) -> Json<Status> {
    let stats = shared.worker.stats();
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        endpoint: shared.endpoint.clone(),
        region: shared.control.region().to_owned(),
        environments_busy: stats.busy + stats.finishing + stats.ending,
        environments_idle: stats.idle,
        invocations_waiting: stats.waiting,
        memory_mib_reserved: stats.memory_mib_reserved,
    })
}

async fn accounts(State(shared): Shared) -> Result<Json<Vec<Account>>, Failure> {
    Ok(Json(shared.control.store().accounts().await?.iter().map(account_view).collect()))
}

async fn add_account(State(shared): Shared, Json(new): Json<NewAccount>) -> Result<Json<Account>, Failure> {
    Ok(Json(account_view(&shared.accounts.create(shared.control.store(), &new.name).await?)))
}

async fn keys(State(shared): Shared, Path(account): Path<String>) -> Result<Json<Vec<Key>>, Failure> {
    let account = shared.account(&account).await?;
    let keys = shared.control.store().access_keys(&account.id).await?;
    Ok(Json(keys.iter().map(key_view).collect()))
}

async fn add_key(State(shared): Shared, Path(account): Path<String>) -> Result<Json<Key>, Failure> {
    let account = shared.account(&account).await?;
    let key = shared.control.store().create_access_key(&account.id).await?;
    Ok(Json(Key { secret_access_key: Some(key.secret.expose().to_owned()), ..key_view(&key) }))
}

async fn change_key(
    State(shared): Shared,
    Path(id): Path<String>,
    Json(change): Json<KeyChange>,
) -> Result<StatusCode, Failure> {
    let id: AccessKeyId = id.parse()?;
    let status = if change.is_active { KeyStatus::Active } else { KeyStatus::Inactive };
    shared.control.store().set_access_key_status(&id, status).await?;
    shared.control.forget_access_key(&id);
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_key(State(shared): Shared, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    let id: AccessKeyId = id.parse()?;
    shared.control.store().delete_access_key(&id).await?;
    shared.control.forget_access_key(&id);
    Ok(StatusCode::NO_CONTENT)
}

async fn log(
    State(shared): Shared,
    Path((account, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Failure> {
    let account = shared.account(&account).await?.id;
    let function: FunctionName = name.parse()?;
    let logs = shared.worker.logs();
    let failed = |error: std::io::Error| {
        Failure(StatusCode::INTERNAL_SERVER_ERROR, format!("the log of {function} cannot be read: {error}"))
    };
    let tail = logs.tail(&account, &function, query.lines.min(LOG_LINES_MAX)).await.map_err(failed)?;
    if tail.lines.is_empty() && shared.control.store().function(&account, &function).await?.is_none() {
        let page = shared.control.store().functions(&account, None, FUNCTIONS_PAGE_MAX).await?;
        let known = page.functions.iter().map(|function| function.name.as_str());
        let hint = suggestion::hint(&name, known, "`calypte ls` lists those that there are");
        return Err(Failure(StatusCode::NOT_FOUND, format!("there is no function `{name}`{hint}")));
    }
    if !query.follow {
        return Ok(tail.lines.into_response());
    }
    let follower = logs.follow(&account, &function, tail.end);
    let first = stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(tail.lines)) });
    let rest = stream::try_unfold(follower, |mut follower| async move {
        let lines = follower.next().await?;
        Ok(lines.map(|lines| (Bytes::from(lines), follower)))
    });
    Ok(Body::from_stream(futures_util::StreamExt::chain(first, rest)).into_response())
}

impl Administration {
    /// The account with this id or name.
    async fn account(&self, text: &str) -> Result<calypte_store::Account, Failure> {
        let store = self.control.store();
        let found = match text.parse() {
            Ok(id) => store.account(&id).await?,
            Err(_) => store.account_named(text).await?,
        };
        if let Some(account) = found {
            return Ok(account);
        }
        let accounts = store.accounts().await?;
        let known = accounts.iter().map(|account| account.name.as_str());
        let hint = suggestion::hint(text, known, "`calypte account ls` lists those that there are");
        Err(Failure(StatusCode::NOT_FOUND, format!("there is no account `{text}`{hint}")))
    }
}

fn account_view(account: &calypte_store::Account) -> Account {
    Account {
        account_id: account.id.to_string(),
        name: account.name.clone(),
        created_at: time_text(account.created_at),
    }
}

fn key_view(key: &calypte_store::AccessKey) -> Key {
    Key {
        access_key_id: key.id.to_string(),
        account_id: key.account.to_string(),
        status: key.status.as_str().to_owned(),
        created_at: time_text(key.created_at),
        secret_access_key: None,
    }
}

fn time_text(time: OffsetDateTime) -> String {
    let whole_seconds = time.replace_nanosecond(0).unwrap_or(time);
    whole_seconds.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
