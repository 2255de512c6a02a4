//! The actions on functions: create, read, change, delete, list.

use bytes::Bytes;
use calypte_store::{Code, Function, FunctionChange, FunctionState, StoreError, StoredBlob};
use calypte_types::{AccountId, BlobId, FunctionName, limits};
use calypte_wire::lambda::{
    CreateFunctionRequest, FunctionConfiguration, ListFunctionsResponse, UpdateFunctionCodeRequest,
    UpdateFunctionConfigurationRequest,
};
use calypte_worker::code::CodeCache;

use crate::Control;
use crate::error::{ControlError, InvalidParameter, shortened};
use crate::function_name::{LATEST, Target};
use crate::members::refuse_unsupported;
use crate::prepare::{blocking, package_refusal};
use crate::settings;
use crate::view::{self, Detail};

/// Functions of one page, as in Lambda.
const PAGE_FUNCTIONS_MAX: u32 = 50;
/// Largest `MaxItems`.
const MAX_ITEMS_MAX: u32 = 10_000;

/// A function and what `GetFunction` shows besides its configuration.
#[derive(Debug)]
pub struct Described {
    /// The configuration.
    pub configuration: FunctionConfiguration,
    /// The package's name among the blobs.
    pub code: BlobId,
    /// The owner's tags.
    pub tags: std::collections::BTreeMap<String, String>,
}

/// Which functions to list.
#[derive(Debug, Default)]
pub struct ListQuery<'a> {
    /// `NextMarker` of the page before.
    pub marker: Option<&'a str>,
    /// Most functions on the page; Lambda has at most 50 on one.
    pub max_items: Option<i64>,
    /// Whether to list versions (`FunctionVersion=ALL`): ARNs are then qualified.
    pub has_versions: bool,
}

impl Control {
    /// Creates a function. `target` is the `FunctionName` of the request.
    pub async fn create_function(
        &self,
        target: &Target,
        mut request: CreateFunctionRequest,
    ) -> Result<FunctionConfiguration, ControlError> {
        target.require_unqualified()?;
        let code = request.code.take().ok_or(InvalidParameter::Missing { member: "code" })?;
        refuse_unsupported("Code", &code.other)?;
        let configuration = settings::from_request(request)?;
        let zip = package(code.zip_file)?;
        self.installed_image(&configuration.runtime).await?;
        let already_exists = || ControlError::AlreadyExists { name: target.name.to_string() };
        if self.store.function(&target.account, &target.name).await.map_err(internal("reading a function"))?.is_some() {
            return Err(already_exists());
        }
        let blob = self.store_package(zip).await?;
        let created = self
            .store
            .create_function(&target.account, &target.name, configuration, &blob, FunctionState::Active)
            .await
            .map_err(|error| match error {
                StoreError::FunctionExists { .. } => already_exists(),
                error => internal("creating a function")(error),
            })?;
        self.forget_function(&target.account, &target.name);
        tracing::info!(account = %target.account, function = %target.name, "function created");
        Ok(view::configuration(&created, &self.region, None, Detail::Full))
    }

    /// A function's configuration.
    pub async fn function_configuration(&self, target: &Target) -> Result<FunctionConfiguration, ControlError> {
        Ok(self.function(target).await?.configuration)
    }

    /// A function.
    pub async fn function(&self, target: &Target) -> Result<Described, ControlError> {
        target.require_latest(&self.region)?;
        let function = self.current(target).await?;
        Ok(Described {
            configuration: view::configuration(&function, &self.region, target.qualifier.as_deref(), Detail::Full),
            code: function.code.blob,
            tags: function.configuration.tags,
        })
    }

    /// The zip file of a function, if `blob` is its current one.
    pub async fn package(&self, target: &Target, blob: &BlobId) -> Result<Bytes, ControlError> {
        let function = self.current(target).await?;
        if function.code.blob != *blob {
            return Err(ControlError::NotFound { arn: target.arn(&self.region).to_string() });
        }
        self.store
            .blobs()
            .get(blob)
            .await
            .map_err(|error| ControlError::internal("reading a function's code")(error.into()))
    }

    /// Replaces a function's code, or only checks that it could be: the answer is what would be.
    pub async fn update_function_code(
        &self,
        target: &Target,
        request: UpdateFunctionCodeRequest,
    ) -> Result<FunctionConfiguration, ControlError> {
        target.require_unqualified()?;
        refuse_unsupported("", &request.other)?;
        settings::refuse_publish(request.publish)?;
        settings::check_architectures(request.architectures.as_deref())?;
        let zip = package(request.zip_file)?;
        let current = self.current(target).await?;
        check_revision(&current, request.revision_id.as_deref())?;
        if request.dry_run == Some(true) {
            let would_be = Function { code: self.check_package(zip).await?, ..current };
            return Ok(view::configuration(&would_be, &self.region, None, Detail::Full));
        }
        let blob = self.store_package(zip).await?;
        let change =
            FunctionChange { code: Some(&blob), state: Some(FunctionState::Active), ..FunctionChange::default() };
        let updated = self.update(target, &current, change, request.revision_id.is_some()).await?;
        self.garbage.notify_one();
        Ok(updated)
    }

    /// Changes a function's configuration.
    pub async fn update_function_configuration(
        &self,
        target: &Target,
        request: UpdateFunctionConfigurationRequest,
    ) -> Result<FunctionConfiguration, ControlError> {
        target.require_unqualified()?;
        let current = self.current(target).await?;
        check_revision(&current, request.revision_id.as_deref())?;
        let expects_revision = request.revision_id.is_some();
        let configuration = settings::changed(&current.configuration, request)?;
        if configuration.runtime != current.configuration.runtime {
            self.installed_image(&configuration.runtime).await?;
        }
        let change = FunctionChange { configuration: Some(configuration), ..FunctionChange::default() };
        self.update(target, &current, change, expects_revision).await
    }

    /// Deletes a function. Invocations under way end by themselves.
    pub async fn delete_function(&self, target: &Target) -> Result<(), ControlError> {
        if target.qualifier.as_deref() == Some(LATEST) {
            return Err(InvalidParameter::DeleteLatest.into());
        }
        target.require_latest(&self.region)?;
        self.store.delete_function(&target.account, &target.name).await.map_err(|error| match error {
            StoreError::FunctionNotFound { .. } => self.not_found(target),
            error => internal("deleting a function")(error),
        })?;
        self.forget_function(&target.account, &target.name);
        self.executor.retire(&target.account, &target.name, None);
        self.garbage.notify_one();
        tracing::info!(account = %target.account, function = %target.name, "function deleted");
        Ok(())
    }

    /// One page of an account's functions, by name.
    pub async fn list_functions(
        &self,
        account: &AccountId,
        query: ListQuery<'_>,
    ) -> Result<ListFunctionsResponse, ControlError> {
        let limit = match query.max_items {
            None => PAGE_FUNCTIONS_MAX,
            Some(value) => match u32::try_from(value) {
                Ok(limit @ 1..=MAX_ITEMS_MAX) => limit.min(PAGE_FUNCTIONS_MAX),
                _ => {
                    let (member, minimum, maximum) = ("maxItems", 1, MAX_ITEMS_MAX);
                    return Err(InvalidParameter::OutOfRange { member, value, minimum, maximum }.into());
                }
            },
        };
        let after: Option<FunctionName> = query.marker.map(view::name_from_marker).transpose()?;
        let page = self.store.functions(account, after.as_ref(), limit).await.map_err(internal("listing functions"))?;
        let qualifier = query.has_versions.then_some(LATEST);
        let shown = |function| view::configuration(function, &self.region, qualifier, Detail::Listed);
        Ok(ListFunctionsResponse {
            functions: page.functions.iter().map(shown).collect(),
            next_marker: page.next.as_ref().map(view::marker_after),
        })
    }

    async fn current(&self, target: &Target) -> Result<Function, ControlError> {
        self.read_function(&target.account, &target.name, || target.arn(&self.region).to_string()).await
    }

    fn not_found(&self, target: &Target) -> ControlError {
        ControlError::NotFound { arn: target.arn(&self.region).to_string() }
    }

    /// Checks a package completely and keeps nothing of it.
    async fn check_package(&self, zip: Bytes) -> Result<Code, ControlError> {
        let code = self.code.clone();
        let checked = blocking(move || {
            code.check(&zip)?;
            Ok(Code { blob: CodeCache::id_of(&zip), size_bytes: zip.len() as u64 })
        });
        checked.await.map_err(package_refusal)
    }

    /// Checks a package, extracts it and makes it durable.
    async fn store_package(&self, zip: Bytes) -> Result<StoredBlob, ControlError> {
        let blob = self.store.blobs().put(zip.clone()).await;
        let blob = blob.map_err(|error| ControlError::internal("storing a function's code")(error.into()))?;
        match self.extract(blob.id(), zip).await {
            Ok(()) => Ok(blob),
            Err(error) => {
                drop(blob);
                self.garbage.notify_one();
                Err(error)
            }
        }
    }

    async fn update(
        &self,
        target: &Target,
        current: &Function,
        change: FunctionChange<'_>,
        expects_revision: bool,
    ) -> Result<FunctionConfiguration, ControlError> {
        let updated = self.store.update_function(current, change).await.map_err(|error| match error {
            StoreError::FunctionNotFound { .. } => self.not_found(target),
            StoreError::RevisionMismatch { .. } if expects_revision => ControlError::RevisionMismatch,
            StoreError::RevisionMismatch { .. } => {
                ControlError::UpdateInProgress { arn: target.arn(&self.region).to_string() }
            }
            error => internal("changing a function")(error),
        })?;
        self.forget_function(&target.account, &target.name);
        self.executor.retire(&target.account, &target.name, Some(&updated.revision_id));
        tracing::info!(account = %target.account, function = %target.name, revision = updated.revision_id, "function changed");
        Ok(view::configuration(&updated, &self.region, None, Detail::Full))
    }
}

/// For `map_err`: our own failure of the records.
fn internal(doing: &'static str) -> impl FnOnce(StoreError) -> ControlError {
    move |error| ControlError::internal(doing)(error.into())
}

/// The bytes of the zip file, if there are some and not too many.
fn package(zip: Option<Vec<u8>>) -> Result<Bytes, InvalidParameter> {
    match zip {
        None => Err(InvalidParameter::NoCode),
        Some(zip) if zip.is_empty() => Err(InvalidParameter::Zip("Uploaded file must be a non-empty zip".to_owned())),
        Some(zip) if zip.len() > limits::ZIP_BYTES_MAX => Err(InvalidParameter::ZipTooLarge { bytes: zip.len() }),
        Some(zip) => Ok(Bytes::from(zip)),
    }
}

fn check_revision(current: &Function, expected: Option<&str>) -> Result<(), ControlError> {
    match expected {
        Some(expected) if !expected.is_empty() && expected != current.revision_id => {
            tracing::debug!(expected = shortened(expected), current = current.revision_id, "revisions differ");
            Err(ControlError::RevisionMismatch)
        }
        _ => Ok(()),
    }
}
