//! Progress bars on standard error; none when that is no terminal.

use std::time::Duration;

use calypte_worker::image::Progress;
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// A bar for bytes that are sent.
pub(crate) fn of_bytes(what: &str, total: u64) -> ProgressBar {
    let template = "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}";
    let bar = ProgressBar::new(total).with_prefix(what.to_owned());
    bar.set_style(style(template));
    bar
}

/// A spinner for work without a measure.
pub(crate) fn of_wait(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
    bar.set_style(style("{spinner} {prefix} {elapsed}"));
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar for the import of a runtime.
pub(crate) struct ImportBar {
    bar: ProgressBar,
    step: Option<calypte_worker::image::Step>,
}

impl ImportBar {
    /// Says what is imported.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
        bar.set_style(style("{spinner} importing {prefix}: {msg}"));
        bar.enable_steady_tick(TICK);
        Self { bar, step: None }
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, progress: &Progress) {
        self.bar.set_position(progress.done);
        if let Some(total) = progress.total {
            self.bar.set_length(total);
        }
        if self.step.replace(progress.step) != Some(progress.step) {
            self.bar.set_message(progress.step.as_str());
            let template = match progress.total {
                Some(_) => "{spinner} importing {prefix}: {msg} [{bar:30}] {percent}%",
                None => "{spinner} importing {prefix}: {msg}",
            };
            self.bar.set_style(style(template));
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are well formed").progress_chars("━━ ")
}
