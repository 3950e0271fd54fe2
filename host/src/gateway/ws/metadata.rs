//! A session's metadata changes: what comes of it is checked before the driver hears of it.

use std::collections::BTreeMap;

use presence_core::metadata::Metadata;

use super::{Connection, Ending, ErrorCode, Event};

impl Connection {
    /// All of it or nothing.
    pub(super) async fn set_metadata(
        &mut self,
        changes: BTreeMap<String, Option<String>>,
        id: Option<String>,
    ) -> Result<(), Ending> {
        match Metadata::of(&self.attributes).changed(changes) {
            Ok(metadata) => {
                self.attributes = self.attributes.with_metadata(&metadata);
                let set = Event::SetMetadata(self.id, self.attributes.clone(), id);
                Ok(self.handle.send(set).await?)
            }
            Err(error) => {
                self.handle.send(Event::Activity(self.id)).await?;
                self.complain(ErrorCode::InvalidMessage, error.to_string(), id).await
            }
        }
    }
}
