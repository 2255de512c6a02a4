//! Making a function ready to be invoked: its runtime image and its extracted code, found once and kept in memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use calypte_store::Function;
use calypte_types::{BlobId, limits};
use calypte_worker::code::CodeError;
use calypte_worker::image::{ImageError, Images, RuntimeImage};
use calypte_worker::{FunctionSpec, TreePin};

use crate::Control;
use crate::error::{ControlError, InvalidParameter};
use crate::function_name::Target;
use crate::runtime;
use crate::spec::{Directories, function_spec};

/// How long a runtime image that was replaced may still be used for new environments.
const IMAGE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often something is looked for that may be removed between being found and being held.
const ATTEMPTS_MAX: u32 = 3;

/// A function that can be invoked without asking the database.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) spec: FunctionSpec,
    /// Why the function's own bootstrap cannot be started, in Lambda's words.
    pub(crate) entry_point_problem: Option<&'static str>,
    /// The package, by name.
    pub(crate) package: BlobId,
    runtime: String,
    image: Option<Arc<PinnedImage>>,
    image_checked_at: Mutex<Instant>,
    _code: PinnedCode,
}

impl Prepared {
    /// How long an invocation that begins now may read the function's files: initialisation and the time limit twice,
    /// which covers the wait for capacity.
    pub(crate) fn longest_use(&self) -> Duration {
        2 * Duration::from_secs(u64::from(limits::INIT_TIMEOUT_S + self.spec.timeout_s))
    }
}

/// An extracted package that stays while this lives.
#[derive(Debug)]
pub(crate) struct PinnedCode {
    directory: PathBuf,
    _pin: TreePin,
}

/// An image that stays while this lives. Functions share it: a pin is an open file.
#[derive(Debug)]
pub(crate) struct PinnedImage {
    image: RuntimeImage,
    _pin: TreePin,
}

/// The images that functions hold.
#[derive(Debug, Default)]
pub(crate) struct PinnedImages {
    by_name: Mutex<HashMap<String, Weak<PinnedImage>>>,
}

impl PinnedImages {
    /// The image that a runtime's name stands for now.
    fn get(&self, images: &Images, name: &str) -> Result<Arc<PinnedImage>, ImageError> {
        for _ in 0..ATTEMPTS_MAX {
            let image = images.get(name)?;
            let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            let held = by_name.get(name).and_then(Weak::upgrade).filter(|held| held.image == image);
            if let Some(held) = held {
                return Ok(held);
            }
            if let Some(pin) = images.pin(&image)? {
                let pinned = Arc::new(PinnedImage { image, _pin: pin });
                by_name.retain(|_, held| held.strong_count() > 0);
                by_name.insert(name.to_owned(), Arc::downgrade(&pinned));
                return Ok(pinned);
            }
        }
        let known = images.list()?.into_iter().map(|image| image.name).collect();
        Err(ImageError::Unknown { name: name.to_owned(), known })
    }
}

impl Control {
    /// The function, ready to be invoked: from memory if possible.
    pub(crate) async fn prepared(&self, target: &Target) -> Result<Arc<Prepared>, ControlError> {
        let key = (target.account.clone(), target.name.clone());
        if let Some(prepared) = self.prepared.get(&key) {
            if self.has_current_image(&prepared).await? {
                return Ok(prepared);
            }
            self.prepared.remove(&key);
        }
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&key);
        let _only_one = self.preparation_locks[hash as usize % self.preparation_locks.len()].lock().await;
        if let Some(prepared) = self.prepared.get(&key) {
            return Ok(prepared);
        }
        let began = self.prepared.generation();
        let arn = || target.arn(&self.region).to_string();
        let function = self.read_function(&target.account, &target.name, arn).await?;
        let prepared = Arc::new(self.prepare(&function).await?);
        self.prepared.insert(began, key, Arc::clone(&prepared));
        Ok(prepared)
    }

    async fn prepare(&self, function: &Function) -> Result<Prepared, ControlError> {
        let runtime = &function.configuration.runtime;
        let image = self.installed_image(runtime).await.map_err(|error| match error {
            ControlError::Invalid(why) => ControlError::RuntimeUnavailable(why),
            error => error,
        })?;
        let code = match self.extracted(&function.code.blob).await? {
            Some(code) => code,
            None => self.extract_again(function).await?,
        };
        let directories = Directories {
            root: image.as_ref().map_or_else(|| self.empty_root.clone(), |pinned| pinned.image.root.clone()),
            code: code.directory.clone(),
        };
        let spec = function_spec(function, &self.region, image.as_ref().map(|pinned| &pinned.image), directories);
        let brings_bootstrap = spec.arguments == [runtime::BOOTSTRAP];
        Ok(Prepared {
            entry_point_problem: if brings_bootstrap { entry_point_problem(&code.directory) } else { None },
            spec,
            package: function.code.blob.clone(),
            runtime: runtime.clone(),
            image,
            image_checked_at: Mutex::new(Instant::now()),
            _code: code,
        })
    }

    /// The image of a runtime. `None` if there is none and functions of this runtime need none.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if there is no such runtime here.
    pub(crate) async fn installed_image(&self, runtime: &str) -> Result<Option<Arc<PinnedImage>>, ControlError> {
        let (images, pinned, name) = (self.images.clone(), Arc::clone(&self.pinned_images), runtime.to_owned());
        let found = blocking(move || pinned.get(&images, &name));
        match found.await {
            Ok(image) => Ok(Some(image)),
            Err(ImageError::Unknown { .. }) if runtime::is_provided(runtime) => Ok(None),
            Err(ImageError::Unknown { known, .. }) => Err(runtime::refusal(runtime, &known).into()),
            Err(ImageError::Name { .. }) => Err(runtime::refusal(runtime, &self.installed_names().await).into()),
            Err(error) => Err(ControlError::internal("reading a runtime image")(error.into())),
        }
    }

    /// Checks and extracts a package, or finds it extracted.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if it is not acceptable.
    pub(crate) async fn extract(&self, blob: &BlobId, zip: bytes::Bytes) -> Result<(), ControlError> {
        let (code, blob) = (self.code.clone(), blob.clone());
        blocking(move || code.add(&blob, &zip)).await.map(drop).map_err(package_refusal)
    }

    /// For a package that was extracted when it was uploaded: the directory is gone, evicted or lost with the machine.
    async fn extract_again(&self, function: &Function) -> Result<PinnedCode, ControlError> {
        let blob = &function.code.blob;
        for _ in 0..ATTEMPTS_MAX {
            let zip = self.store.blobs().get(blob).await;
            let zip = zip.map_err(|error| ControlError::internal("reading a function's code")(error.into()))?;
            self.extract(blob, zip).await.map_err(|error| match error {
                ControlError::Invalid(why) => ControlError::PackageDamaged(why),
                error => error,
            })?;
            if let Some(code) = self.extracted(blob).await? {
                return Ok(code);
            }
        }
        Err(ControlError::internal("extracting a function's code")("it is removed again and again".into()))
    }

    async fn extracted(&self, blob: &BlobId) -> Result<Option<PinnedCode>, ControlError> {
        let (code, blob) = (self.code.clone(), blob.clone());
        let found = blocking(move || match code.pin(&blob)? {
            Some(pin) => Ok(code.directory(&blob).map(|directory| PinnedCode { directory, _pin: pin })),
            None => Ok(None),
        });
        found.await.map_err(|error: CodeError| ControlError::internal("finding a function's code")(error.into()))
    }

    /// Whether a runtime still has the image that a function was prepared with. Asks the disk only now and then.
    async fn has_current_image(&self, prepared: &Prepared) -> Result<bool, ControlError> {
        {
            let mut checked_at = prepared.image_checked_at.lock().unwrap_or_else(PoisonError::into_inner);
            if checked_at.elapsed() < IMAGE_CHECK_INTERVAL {
                return Ok(true);
            }
            *checked_at = Instant::now();
        }
        let (images, name) = (self.images.clone(), prepared.runtime.clone());
        let current = match blocking(move || images.get(&name)).await {
            Ok(image) => Some(image.digest),
            Err(ImageError::Unknown { .. } | ImageError::Name { .. }) => None,
            Err(error) => return Err(ControlError::internal("reading a runtime image")(error.into())),
        };
        Ok(current.as_deref() == prepared.image.as_ref().map(|pinned| pinned.image.digest.as_str()))
    }

    async fn installed_names(&self) -> Vec<String> {
        let images = self.images.clone();
        let listed = blocking(move || images.list()).await;
        listed.unwrap_or_default().into_iter().map(|image| image.name).collect()
    }
}

/// Whose fault it is that a package was not extracted.
pub(crate) fn package_refusal(error: CodeError) -> ControlError {
    match error {
        CodeError::TooLarge => InvalidParameter::UnzippedTooLarge.into(),
        error if error.is_callers_fault() => InvalidParameter::Zip(error.to_string()).into(),
        error => ControlError::internal("extracting a function's code")(error.into()),
    }
}

/// What Lambda says of a package whose `bootstrap` cannot be started.
fn entry_point_problem(code: &Path) -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt;

    // Not followed: a link is the guest's, and its target may exist there only.
    match code.join("bootstrap").symlink_metadata() {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 == 0 => {
            Some("fork/exec /var/task/bootstrap: permission denied")
        }
        Ok(metadata) if metadata.is_dir() => Some("fork/exec /var/task/bootstrap: permission denied"),
        Ok(_) => None,
        Err(_) => Some("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"),
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
