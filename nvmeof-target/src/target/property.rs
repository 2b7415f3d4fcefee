//! Property Get and Property Set (sections 6.5, 6.6).

use super::Target;
use super::controller::{ControllerKey, capabilities};
use crate::io::Now;
use crate::seam::{Action, Reply};
use storage_spec::fabrics::{
    Configuration, PROPERTY_CAP, PROPERTY_CC, PROPERTY_CRTO, PROPERTY_CSTS, PROPERTY_NSSR,
    PROPERTY_VS, PropertyCommand, ReadyTimeouts,
};
use storage_spec::nvme::command::Command;
use storage_spec::nvme::status::Status;

/// VS: 2.0.
///
/// Linux 6.12 then reads namespaces by CNS 08h, the newest structure, and takes the limits of Write
/// Zeroes and Dataset Management from CNS 06h. All that 2.0 makes mandatory is there (log pages
/// 00h, 05h and 12h, CNS 05h to 08h and 1Ch, CRTO), and nothing of later revisions is.
pub(super) const VERSION: u32 = 0x0002_0000;

/// Size field of a property of 8 bytes; 0 for 4.
const SIZE_8: u8 = 1;

impl Target {
    pub(super) fn property_get(&self, key: ControllerKey, command: &Command) -> Reply {
        let controller = &self.controllers[&key];
        let property: PropertyCommand = zerocopy::transmute!(*command);
        let capabilities = capabilities(&self.config);
        let value = match (property.attributes & 0b111, property.offset.get()) {
            (SIZE_8, PROPERTY_CAP) => u64::from(capabilities),
            (0, PROPERTY_VS) => u64::from(VERSION),
            (0, PROPERTY_CC) => u32::from(controller.configuration()).into(),
            (0, PROPERTY_CSTS) => u32::from(controller.status()).into(),
            // CAP.NSSRS is 0, so that writes are refused below.
            (0, PROPERTY_NSSR) => 0,
            (0, PROPERTY_CRTO) => {
                let timeout = u16::from(capabilities.timeout());
                u32::from(ReadyTimeouts::new().with_with_media(timeout)).into()
            }
            _ => return Reply::failed(Status::INVALID_FIELD.dnr()),
        };
        Reply::value(value)
    }

    pub(super) fn property_set(
        &mut self,
        now: Now,
        key: ControllerKey,
        command: &Command,
    ) -> Reply {
        let property: PropertyCommand = zerocopy::transmute!(*command);
        if (property.attributes & 0b111, property.offset.get()) != (0, PROPERTY_CC) {
            return Reply::failed(Status::INVALID_FIELD.dnr());
        }
        let configuration = Configuration::from(property.value.get() as u32);
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let queues_close = controller.configure(now, configuration);
        if queues_close {
            for connection in controller.io_queues() {
                self.actions.push_back(Action::Close(connection));
            }
            self.drop_waiting(key);
        }
        self.settle(now, key);
        Reply::done()
    }
}
