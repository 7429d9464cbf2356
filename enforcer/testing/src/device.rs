//! Network devices, made and removed by netlink as `ip link` does it.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;
/// `IFLA_*` in `include/uapi/linux/if_link.h`.
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VXLAN_ID: u16 = 1;
const VXLAN_PORT: u16 = 15;

/// A device. Removed when dropped.
pub struct Device(String);

impl Device {
    /// Makes a bridge of this name.
    pub fn bridge(name: &str) -> io::Result<Self> {
        Self::make(name, b"bridge", &[])
    }

    /// Makes a VXLAN tunnel, for which the kernel binds a UDP socket to this port on behalf of whoever makes it.
    pub fn vxlan(name: &str, port: u16) -> io::Result<Self> {
        let data = [attribute(VXLAN_ID, &7u32.to_ne_bytes()), attribute(VXLAN_PORT, &port.to_be_bytes())].concat();
        Self::make(name, b"vxlan", &data).and_then(|device| {
            device.raise()?;
            Ok(device)
        })
    }

    fn make(name: &str, kind: &[u8], data: &[u8]) -> io::Result<Self> {
        let info = [attribute(INFO_KIND, kind), attribute(INFO_DATA, data)].concat();
        let attributes = [attribute(NAME, &terminated(name)), attribute(INFO, &info)].concat();
        ask(NEW_LINK, CREATE_EXCLUSIVE, 0, &attributes)?;
        Ok(Self(name.to_owned()))
    }

    /// Brings the device up: only then the kernel opens a tunnel's socket (`vxlan_open` in
    /// `drivers/net/vxlan/vxlan_core.c`).
    fn raise(&self) -> io::Result<()> {
        ask(NEW_LINK, 0, 1, &attribute(NAME, &terminated(&self.0)))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let removed = ask(DEL_LINK, 0, 0, &attribute(NAME, &terminated(&self.0)));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("short");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request about a link; `flags` are `IFF_*` to set.
fn ask(kind: u16, more: u16, flags: u32, attributes: &[u8]) -> io::Result<()> {
    let mut kernel = Socket::new(NETLINK_ROUTE)?;
    kernel.bind_auto()?;
    kernel.connect(&SocketAddr::new(0, 0))?;
    // `struct ifinfomsg`: family and type, index, flags, and which of the flags count.
    let link = [[0; 4], 0i32.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat();
    let length = u32::try_from(16 + link.len() + attributes.len()).expect("short");
    let mut request = length.to_ne_bytes().to_vec();
    request.extend([kind.to_ne_bytes(), (REQUEST_ACK | more).to_ne_bytes()].concat());
    request.extend([0; 8]);
    request.extend(link);
    request.extend(attributes);
    kernel.send(&request, 0)?;
    let mut answer = vec![0; 4096];
    let length = kernel.recv(&mut &mut answer[..], 0)?;
    // `struct nlmsgerr` after the header: the error number, negative.
    let error = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
