//! The virtio disk on PCI.

use core::ptr;

use kernel_core::phases::disk::KernelHal;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Cam, Command, MmioCam, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};

use crate::firmware;
use crate::machine::Machine;

/// The first virtio disk of bus 0.
pub fn find() -> Option<PciTransport> {
    let base = ptr::with_exposed_provenance_mut::<u8>(firmware::pci_configuration()?);
    // SAFETY: ACPI says that PCI's configuration space is there; it is mapped where it is, uncached,
    // and used here only.
    let mut root = PciRoot::new(unsafe { MmioCam::new(base, Cam::Ecam) });
    let (function, _) = root
        .enumerate_bus(0)
        .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Block))?;
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
    match PciTransport::new::<KernelHal<Machine>, _>(&mut root, function) {
        Ok(transport) => Some(transport),
        Err(error) => panic!("the disk's transport: {error:?}"),
    }
}
