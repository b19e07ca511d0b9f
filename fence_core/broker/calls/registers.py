"""What the filter tells apart by a register, and handlers then look at: numbers of flags, options and requests.

Apart from the handlers, which are imported with the first call of their family: the filter is made before.
"""

from __future__ import annotations

import os

# opens
TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
OPEN_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | TMPFILE
"""Of the flags of open(2), those that can make it change something."""
QUEUE_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
"""Of the flags of mq_open(3), those with which it can change something; the filter stops no other."""

# sockets
MSG_FASTOPEN = 0x20000000
SO_BINDTODEVICE = 25
SO_BINDTOIFINDEX = 62
IPV6_NAMES = (6, 17, 20, 21, 27, 28, 76)
"""Those of level IPPROTO_IPV6 that are not between 32 and 63, where the filter stops all."""

# ioctl(2)
TIOCSTI, TIOCLINUX, TIOCSCTTY = 0x5412, 0x541C, 0x540E  # include/uapi/asm-generic/ioctls.h
OF_TERMINALS = frozenset({TIOCSTI, TIOCLINUX, TIOCSCTTY})
OF_ATTRIBUTES = {
    0x40086602: 4,  # FS_IOC_SETFLAGS: a long by its number, an int in fact (ioctl_iflags(2))
    0x40046602: 4,  # FS_IOC32_SETFLAGS
    0x401C5820: 28,  # FS_IOC_FSSETXATTR: struct fsxattr
    0x40087602: 4,  # FS_IOC_SETVERSION
    0x40047602: 4,  # FS_IOC32_SETVERSION
    0x40086604: 4,  # EXT4_IOC_SETVERSION_OLD (fs/ext4/ext4.h)
    0x40047211: 4,  # FAT_IOCTL_SET_ATTRIBUTES (include/uapi/linux/msdos_fs.h)
}
"""Requests that change attributes of the file, and how many bytes each is given. Source: include/uapi/linux/fs.h."""
REFUSED = (
    # include/uapi/linux/fsverity.h, fscrypt.h, fs.h
    0x40806685,  # FS_IOC_ENABLE_VERITY: the file can never be written again
    0x800C6613,  # FS_IOC_SET_ENCRYPTION_POLICY
    0x41009432,  # FS_IOC_SETFSLABEL
    # include/uapi/linux/btrfs.h: subvolumes are made and removed by their names, of which Landlock hears nothing
    0x50009401,  # BTRFS_IOC_SNAP_CREATE
    0x50009417,  # BTRFS_IOC_SNAP_CREATE_V2
    0x5000940E,  # BTRFS_IOC_SUBVOL_CREATE
    0x50009418,  # BTRFS_IOC_SUBVOL_CREATE_V2
    0x5000940F,  # BTRFS_IOC_SNAP_DESTROY
    0x5000943F,  # BTRFS_IOC_SNAP_DESTROY_V2
    0x4008941A,  # BTRFS_IOC_SUBVOL_SETFLAGS
    0xC0C89425,  # BTRFS_IOC_SET_RECEIVED_SUBVOL
    # fs/xfs/libxfs/xfs_fs.h: by handle, as open_by_handle_at(2)
    0xC038586B,  # XFS_IOC_OPEN_BY_HANDLE
    0x4048587B,  # XFS_IOC_ATTRMULTI_BY_HANDLE
    # include/uapi/linux/nsfs.h: from one mount namespace to the others of the machine
    0x8010B70B,  # NS_MNT_GET_NEXT
    0x8010B70C,  # NS_MNT_GET_PREV
    # include/uapi/linux/fs.h, fs/ext4/ext4.h: a whole file system stops, or changes its name
    0xC0045877,  # FIFREEZE
    0x8004587D,  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
    0x4008662C,  # EXT4_IOC_SETFSUUID
    # fs/ocfs2/ocfs2_ioctl.h: makes a file by its path
    0x40186F04,  # OCFS2_IOC_REFLINK
    # include/uapi/linux/nvme_ioctl.h: any command to the device, from who has CAP_SYS_ADMIN or CAP_SYS_RAWIO
    0xC0484E41,  # NVME_IOCTL_ADMIN_CMD
    0x40304E42,  # NVME_IOCTL_SUBMIT_IO
    0xC0484E43,  # NVME_IOCTL_IO_CMD
    0xC0504E47,  # NVME_IOCTL_ADMIN64_CMD
    0xC0504E48,  # NVME_IOCTL_IO64_CMD
    0xC0504E49,  # NVME_IOCTL_IO64_CMD_VEC
)
"""Requests that change the disk through a descriptor open for reading, and that no test needs: the filter refuses them
itself."""
REFUSED_PLAIN = (
    0x6609,  # EXT4_IOC_MIGRATE (fs/ext4/ext4.h)
    0x2285,  # SG_IO (include/scsi/sg.h): any command to the device, from who has CAP_SYS_RAWIO
    0x5393,  # CDROM_SEND_PACKET (include/uapi/linux/cdrom.h)
    1,  # SCSI_IOCTL_SEND_COMMAND (include/scsi/scsi_ioctl.h); and FIBMAP, which others than root are refused as well
)
"""The same, of those without the bits that tell size and direction."""
OF_ROOT = (
    # include/uapi/linux/kd.h, vt.h: keys that type words of the test's choice, and the console as such
    0x4B49, 0x4B47, 0x4B4B, 0x4BFB, 0x4B4D, 0x4B45, 0x4B63, 0x4B32, 0x4B65, 0x4B4E, 0x4B52,  # KDSKBSENT to KDKBDREP
    0x4B72, 0x4B61, 0x4B6C, 0x4B6D, 0x4B67, 0x4B68, 0x4B41, 0x4B6A, 0x4B71, 0x4B3A,  # KDFONTOP, PIO_*, KDSETMODE
    0x4B2F, 0x4B30, 0x4B34, 0x4B35, 0x4B36, 0x4B37,  # KIOCSOUND, KDMKTONE, KDADDIO to KDDISABIO
    0x5602, 0x5605, 0x5606, 0x5607, 0x5608, 0x5609, 0x560A, 0x560B, 0x560C, 0x560F,  # VT_SETMODE to VT_SETACTIVATE
    # include/uapi/asm-generic/ioctls.h: another terminal is hung up, or gets what is meant for the console
    0x5437, 0x541D,  # TIOCVHANGUP, TIOCCONS
    # include/uapi/linux/fs.h, blkpg.h, blktrace_api.h: a block device, for all who use it
    0x125D, 0x125F, 0x1261, 0x1262, 0x1264, 0x1269, 0x1277, 0x127D, 0x127F,  # BLKROSET to BLKZEROOUT
    0x1274, 0x1275, 0x1276,  # BLKTRACESTART, BLKTRACESTOP, BLKTRACETEARDOWN
    # include/uapi/linux/loop.h
    0x4C00, 0x4C01, 0x4C02, 0x4C04, 0x4C06, 0x4C07, 0x4C08, 0x4C09, 0x4C0A, 0x4C80, 0x4C81, 0x4C82,
    # include/uapi/linux/hdreg.h: HDIO_DRIVE_* and HDIO_SET_*
    *range(0x031B, 0x0331),
    # include/scsi/sg.h, scsi_ioctl.h, linux/cdrom.h
    0x2284, 0x5380, 0x5381, 5, 6, 0x5309, 0x5312, 0x5319, 0x5329,  # SG_SCSI_RESET to CDROM_LOCKDOOR
    # include/uapi/linux/raid/md_u.h
    0x0922, 0x0928, 0x0932, 0x0933, 0x0934,  # HOT_REMOVE_DISK, SET_DISK_FAULTY, STOP_ARRAY, RESTART_ARRAY_RW
)  # fmt: skip
"""Requests without these bits that only root may make, by a descriptor that need not be open for writing, and that
change the machine."""
OF_ROOT_SIZED = (
    0x40081271,  # BLKBSZSET
    0xC0481273,  # BLKTRACESETUP
    0x40101283, 0x40101286, 0x40101287, 0x40101288,  # BLKRESETZONE, BLKOPENZONE, BLKCLOSEZONE, BLKFINISHZONE
    0xC0045878,  # FITHAW
    0x40480923, 0x40140921, 0x400C0930,  # md: SET_ARRAY_INFO, ADD_NEW_DISK, RUN_ARRAY
    # include/uapi/linux/dm-ioctl.h, on /dev/mapper/control: DM_REMOVE_ALL to DM_DEV_SET_GEOMETRY
    *(0xC138FD00 + number for number in (1, 3, 4, 5, 6, 9, 10, 14, 15)),
    0x4024700A,  # RTC_SET_TIME (include/uapi/linux/rtc.h)
)  # fmt: skip
"""The same, of those with them."""
