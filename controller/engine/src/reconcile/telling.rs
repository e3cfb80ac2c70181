//! Happenings: each piece of news once.

use evenkeel_crds::reason::Cause;

use super::Reconciler;
use crate::view::Happening;

impl Reconciler {
    pub(super) fn tell(
        &mut self,
        kind: &'static str,
        name: &str,
        cause: &Cause,
        warning: bool,
        action: &'static str,
    ) {
        self.tell_apart(kind, kind, name, cause, warning, action);
    }

    /// The same of one of an object's stories, each of which has its own news.
    pub(super) fn tell_apart(
        &mut self,
        story: &'static str,
        kind: &'static str,
        name: &str,
        cause: &Cause,
        warning: bool,
        action: &'static str,
    ) {
        let what = (cause.reason, cause.message.clone());
        let key = (story, name.to_owned());
        if self.told.get(&key) == Some(&what) {
            return;
        }
        self.told.insert(key, what);
        let _ = self.happenings.send(Happening {
            kind,
            name: name.to_owned(),
            warning,
            reason: cause.reason,
            message: crate::statuses::sentence(cause),
            action,
        });
    }
}
