//! Functions: their records, and the blobs that no record uses any more.

use std::collections::BTreeMap;

use base64::Engine;
use calypte_types::{AccountId, BlobId, FunctionName, IdError};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use time::OffsetDateTime;

use crate::database::{from_ms, now, to_ms};
use crate::{Store, StoreError, StoredBlob, statement};

/// Most functions of one page.
pub const FUNCTIONS_PAGE_MAX: u32 = 1_000;

/// The format of [`FunctionConfiguration`] that this program writes.
const CONFIGURATION_FORMAT: i64 = 2;

/// A function as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its owner.
    pub account: AccountId,
    /// Its name, unique within the account.
    pub name: FunctionName,
    /// What its owner set.
    pub configuration: FunctionConfiguration,
    /// Its zip file.
    pub code: Code,
    /// Whether it can be invoked.
    pub state: FunctionState,
    /// Changes with every write to the record.
    pub revision_id: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When configuration or code changed last.
    pub modified_at: OffsetDateTime,
}

/// The part of a function that its owner sets. Validated by `control`; stored as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionConfiguration {
    /// Name of the runtime, for example `python3.11`.
    pub runtime: String,
    /// What the runtime runs, for example `module.function`.
    pub handler: String,
    /// ARN of the role; kept, not interpreted.
    pub role: String,
    /// Free text.
    pub description: String,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Size of `/tmp`, in MiB.
    pub tmp_mib: u32,
    /// Time limit of one invocation, in seconds.
    pub timeout_s: u32,
    /// The owner's environment variables.
    pub environment: BTreeMap<String, String>,
    /// The owner's tags.
    pub tags: BTreeMap<String, String>,
    /// Whether environments start from a template.
    pub template: TemplateChoice,
}

/// Whether a function's environments start from a saved one, as its owner has said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TemplateChoice {
    /// Nothing was said: they do.
    #[default]
    Default,
    /// They do.
    On,
    /// They do not.
    Off,
}

impl TemplateChoice {
    /// Whether they do.
    pub fn has_template(self) -> bool {
        self != Self::Off
    }
}

/// A function's code: a zip file among the blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The zip file's SHA-256 digest.
    pub blob: BlobId,
    /// The zip file's size.
    pub size_bytes: u64,
}

impl Code {
    /// `CodeSha256` of the Lambda API: the digest in base64.
    pub fn sha256_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.blob.to_digest())
    }
}

impl From<&StoredBlob> for Code {
    fn from(blob: &StoredBlob) -> Self {
        Self { blob: blob.id().clone(), size_bytes: blob.size_bytes() }
    }
}

/// Whether a function can be invoked; words as in Lambda.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionState {
    /// Being prepared.
    Pending,
    /// It can.
    Active,
    /// Idle for so long that the next invocation prepares it again.
    Inactive,
    /// It could not be prepared.
    Failed {
        /// Why, for its owner.
        reason: String,
    },
}

impl FunctionState {
    /// The word that is stored and shown.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Active => "Active",
            Self::Inactive => "Inactive",
            Self::Failed { .. } => "Failed",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason } => Some(reason),
            Self::Pending | Self::Active | Self::Inactive => None,
        }
    }
}

/// What [`Store::update_function`] changes; `None` leaves the field as it is.
#[derive(Debug, Default)]
pub struct FunctionChange<'a> {
    /// New configuration.
    pub configuration: Option<FunctionConfiguration>,
    /// New code. Keep the [`StoredBlob`] until the update returned: it protects the blob from collection.
    pub code: Option<&'a StoredBlob>,
    /// New state.
    pub state: Option<FunctionState>,
}

/// Some of an account's functions, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPage {
    /// The functions.
    pub functions: Vec<Function>,
    /// Where the next page starts: pass it as `after`. `None` on the last page.
    pub next: Option<FunctionName>,
}

/// What [`Store::collect_garbage`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Garbage {
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Adds a function. Once this returned, it is there after any crash.
    ///
    /// # Errors
    /// [`StoreError::FunctionExists`], [`StoreError::AccountNotFound`].
    pub async fn create_function(
        &self,
        account: &AccountId,
        name: &FunctionName,
        configuration: FunctionConfiguration,
        code: &StoredBlob,
        state: FunctionState,
    ) -> Result<Function, StoreError> {
        let created_at = now();
        let function = Function {
            account: account.clone(),
            name: name.clone(),
            configuration,
            code: code.into(),
            state,
            revision_id: new_revision(),
            created_at,
            modified_at: created_at,
        };
        let configuration = encode(&function.configuration)?;
        let insert = bind(statement::FUNCTION_INSERT, &function, &configuration);
        insert.execute(&self.inner.pool).await.map_err(|error| match &error {
            sqlx::Error::Database(cause) if cause.is_unique_violation() => {
                StoreError::FunctionExists { account: account.clone(), name: name.clone() }
            }
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => {
                StoreError::AccountNotFound(account.clone())
            }
            _ => StoreError::Database { action: "add a function", source: error },
        })?;
        Ok(function)
    }

    /// The function of that name.
    pub async fn function(&self, account: &AccountId, name: &FunctionName) -> Result<Option<Function>, StoreError> {
        let query = sqlx::query(statement::FUNCTION_BY_NAME).bind(account.as_str()).bind(name.as_str());
        let row = query.fetch_optional(&self.inner.pool).await.map_err(StoreError::database("read a function"))?;
        row.as_ref().map(function_from).transpose()
    }

    /// Up to `limit` (at most [`FUNCTIONS_PAGE_MAX`]) functions of an account whose names follow `after`, by name.
    pub async fn functions(
        &self,
        account: &AccountId,
        after: Option<&FunctionName>,
        limit: u32,
    ) -> Result<FunctionPage, StoreError> {
        let limit = limit.clamp(1, FUNCTIONS_PAGE_MAX) as usize;
        let query = sqlx::query(statement::FUNCTIONS_OF_ACCOUNT)
            .bind(account.as_str())
            .bind(after.map_or("", FunctionName::as_str))
            // One more than asked for shows whether there is a next page.
            .bind(limit as i64 + 1);
        let rows = query.fetch_all(&self.inner.pool).await.map_err(StoreError::database("list functions"))?;
        let mut functions = rows.iter().map(function_from).collect::<Result<Vec<_>, _>>()?;
        let has_more = functions.len() > limit;
        functions.truncate(limit);
        let next = functions.last().filter(|_| has_more).map(|function| function.name.clone());
        Ok(FunctionPage { functions, next })
    }

    /// Changes the function that the caller read as `current`, provided that nobody changed it since.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`], [`StoreError::FunctionNotFound`].
    pub async fn update_function(
        &self,
        current: &Function,
        change: FunctionChange<'_>,
    ) -> Result<Function, StoreError> {
        let is_modified = change.configuration.is_some() || change.code.is_some();
        let function = Function {
            account: current.account.clone(),
            name: current.name.clone(),
            configuration: change.configuration.unwrap_or_else(|| current.configuration.clone()),
            code: change.code.map_or_else(|| current.code.clone(), Code::from),
            state: change.state.unwrap_or_else(|| current.state.clone()),
            revision_id: new_revision(),
            created_at: current.created_at,
            modified_at: if is_modified { now() } else { current.modified_at },
        };
        let configuration = encode(&function.configuration)?;
        let update = bind(statement::FUNCTION_UPDATE, &function, &configuration).bind(&current.revision_id);
        let done = update.execute(&self.inner.pool).await.map_err(StoreError::database("change a function"))?;
        if done.rows_affected() == 1 {
            return Ok(function);
        }
        let Function { account, name, revision_id, .. } = current.clone();
        Err(match self.function(&account, &name).await? {
            Some(_) => StoreError::RevisionMismatch { name, expected: revision_id },
            None => StoreError::FunctionNotFound { account, name },
        })
    }

    /// Removes a function. Its code stays until [`Store::collect_garbage`].
    ///
    /// # Errors
    /// [`StoreError::FunctionNotFound`].
    pub async fn delete_function(&self, account: &AccountId, name: &FunctionName) -> Result<(), StoreError> {
        let delete = sqlx::query(statement::FUNCTION_DELETE).bind(account.as_str()).bind(name.as_str());
        let done = delete.execute(&self.inner.pool).await.map_err(StoreError::database("delete a function"))?;
        match done.rows_affected() {
            0 => Err(StoreError::FunctionNotFound { account: account.clone(), name: name.clone() }),
            _ => Ok(()),
        }
    }

    /// Removes the blobs that no function uses and nobody holds as a [`StoredBlob`]. Idempotent; runs beside
    /// anything else.
    pub async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        let mut garbage = Garbage::default();
        for blob in self.inner.blobs.list().await? {
            // From here to its drop, nobody can obtain the blob anew: a reference seen now is the last word.
            let Some(condemned) = self.inner.blobs.condemn(&blob) else { continue };
            let query = sqlx::query(statement::BLOB_IS_REFERENCED).bind(blob.as_str());
            let row =
                query.fetch_one(&self.inner.pool).await.map_err(StoreError::database("look for a blob's users"))?;
            if !row.try_get::<bool, _>(0).map_err(StoreError::database("look for a blob's users"))? {
                garbage.bytes += condemned.delete().await?;
                garbage.blobs += 1;
            }
        }
        Ok(garbage)
    }
}

fn new_revision() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn encode(configuration: &FunctionConfiguration) -> Result<String, StoreError> {
    serde_json::to_string(configuration).map_err(|error| StoreError::damaged("a function's configuration", error))
}

/// Binds the eleven columns that [`statement::FUNCTION_INSERT`] and [`statement::FUNCTION_UPDATE`] share.
fn bind<'q>(sql: &'static str, function: &'q Function, configuration: &'q str) -> Query<'q, Sqlite, SqliteArguments> {
    sqlx::query(sql)
        .bind(function.account.as_str())
        .bind(function.name.as_str())
        .bind(CONFIGURATION_FORMAT)
        .bind(configuration)
        .bind(function.code.blob.as_str())
        .bind(i64::try_from(function.code.size_bytes).unwrap_or(i64::MAX))
        .bind(function.state.as_str())
        .bind(function.state.reason())
        .bind(&function.revision_id)
        .bind(to_ms(function.created_at))
        .bind(to_ms(function.modified_at))
}

fn function_from(row: &SqliteRow) -> Result<Function, StoreError> {
    let read = |error| StoreError::Database { action: "read a function", source: error };
    let text = |column: &str| row.try_get::<String, _>(column).map_err(read);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(read);
    let name = text("name")?;
    let damaged = |reason: String| StoreError::damaged(format!("function {name}"), reason);
    let bad_id = |error: IdError| damaged(error.to_string());
    let format = number("configuration_format")?;
    if format != CONFIGURATION_FORMAT {
        return Err(damaged(format!("configuration format {format}, expected {CONFIGURATION_FORMAT}")));
    }
    let state = match text("state")?.as_str() {
        "Pending" => FunctionState::Pending,
        "Active" => FunctionState::Active,
        "Inactive" => FunctionState::Inactive,
        "Failed" => FunctionState::Failed { reason: row.try_get("state_reason").map_err(read)? },
        other => return Err(damaged(format!("state {other:?}"))),
    };
    Ok(Function {
        account: text("account_id")?.parse().map_err(bad_id)?,
        configuration: serde_json::from_str(&text("configuration")?).map_err(|error| damaged(error.to_string()))?,
        code: Code {
            blob: text("code_blob")?.parse().map_err(bad_id)?,
            size_bytes: number("code_size_bytes")?.try_into().map_err(|_| damaged("negative size".to_owned()))?,
        },
        state,
        revision_id: text("revision_id")?,
        created_at: from_ms(number("created_ms")?).map_err(damaged)?,
        modified_at: from_ms(number("modified_ms")?).map_err(damaged)?,
        name: name.parse().map_err(bad_id)?,
    })
}
