/* Sends datagrams while a thread swaps what says where they go, and counts how the calls end.
 *
 * Usage: datagram_races SWAP ROUNDS INSIDE OUTSIDE
 *
 * INSIDE and OUTSIDE are paths of datagram sockets, of the same length, or abstract names (with @ before them). The
 * program binds the first one itself, and empties it after each call.
 * SWAP: name      the address in memory, between the two
 *       later     whether there is an address, on a socket that is connected to INSIDE
 *       link      a symbolic link, exchanged with another
 *       entry     INSIDE itself, exchanged with a symbolic link
 *       packets   the descriptor, between one of packets, which takes no notice of an address, and one of datagrams
 *       stream    the same with a stream, and the address: a stream takes none
 *       internet  the same with UDP, and its address
 *       netlink   the same with a netlink socket, and its address
 *
 * There are more rounds, up to twenty times as many, until each call has both succeeded and been refused. One line is
 * written for each call: its name, how often it succeeded, was refused with EACCES, and ended otherwise, and
 * the last error number of those.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static atomic_int done;
static int changes_address, changes_presence, changes_descriptor;
static struct sockaddr_un addresses[2]; /* of which one is what the calls are given */
static socklen_t sizes[2];
static int sockets[2] = {-1, -1}, given = -1;
static char links[2][108];
static struct sockaddr_un address;
static struct iovec vector = {"datagram", 8};
static struct msghdr message = {&address, sizeof(address), &vector, 1, NULL, 0, 0};
static struct mmsghdr messages[1];

static void must(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(2);
    }
}

static void *swap(void *unused)
{
    for (int turn = 1; !done; turn ^= 1) {
        if (changes_address)
            memcpy(&address, &addresses[turn], sizeof(address));
        if (changes_presence) {
            *(struct sockaddr_un *volatile *)&message.msg_name = turn ? &address : NULL;
            *(struct sockaddr_un *volatile *)&messages[0].msg_hdr.msg_name = turn ? &address : NULL;
        }
        if (changes_descriptor)
            dup2(sockets[turn], given);
        if (links[0][0])
            syscall(SYS_renameat2, AT_FDCWD, links[0], AT_FDCWD, links[1], RENAME_EXCHANGE);
    }
    return unused;
}

static int by_sendto(void)
{
    return sendto(given, "datagram", 8, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address, sizes[0]);
}
static int by_sendmsg(void) { return sendmsg(given, &message, MSG_DONTWAIT | MSG_NOSIGNAL); }
static int by_sendmmsg(void)
{
    return sendmmsg(given, messages, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? (int)messages[0].msg_len : -1;
}

static int by_connect(void)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0), result, kept;

    result = connect(fd, (struct sockaddr *)&address, sizes[0]);
    if (!result)
        result = send(fd, "datagram", 8, MSG_DONTWAIT);
    kept = errno;
    close(fd);
    errno = kept;
    return result;
}

static struct call {
    const char *name;
    int (*make)(void);
    long succeeded, refused, other;
    int error;
} calls[] = {{"sendmsg", by_sendmsg}, {"sendmmsg", by_sendmmsg}, {"sendto", by_sendto}, {"connect", by_connect}};

static socklen_t named(struct sockaddr_un *where, const char *path)
{
    where->sun_family = AF_UNIX;
    if (snprintf(where->sun_path, sizeof(where->sun_path), "%s", path) >= (int)sizeof(where->sun_path))
        must(1, path);
    if (path[0] != '@')
        return sizeof(*where);
    where->sun_path[0] = 0;
    return offsetof(struct sockaddr_un, sun_path) + strlen(path);
}

/* Whether a call has not come to one of its ends yet: the other thread may get no processor for long. */
static int one_sided(int kinds)
{
    for (struct call *call = calls; call < calls + kinds; ++call)
        if (!call->succeeded || !call->refused)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    const char *how = argv[1];
    int receivers[2] = {-1, -1}, kinds = 4, pair[2];
    socklen_t size = sizeof(struct sockaddr_in);
    pthread_t thread;
    char rest[64];
    long rounds;

    if (argc != 5)
        return 2;
    for (int side = 0; side < 2; ++side) {
        sizes[side] = named(&addresses[side], argv[3 + side]);
        sockets[side] = socket(AF_UNIX, SOCK_DGRAM, 0);
    }
    receivers[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
    must(bind(receivers[0], (struct sockaddr *)&addresses[0], sizes[0]), "bind");
    address = addresses[0];
    if (!strcmp(how, "name")) {
        changes_address = 1;
    } else if (!strcmp(how, "later")) {
        changes_presence = 1;
        kinds = 2; /* sendto without an address is a call of its own */
        must(connect(sockets[0], (struct sockaddr *)&addresses[0], sizes[0]), "connect");
        address = addresses[1];
    } else if (!strcmp(how, "link")) {
        for (int side = 0; side < 2; ++side) {
            snprintf(links[side], sizeof(links[side]), "%s.%d", argv[3], side);
            must(symlink(argv[3 + side], links[side]), links[side]);
        }
        named(&address, links[0]);
    } else if (!strcmp(how, "entry")) {
        snprintf(links[0], sizeof(links[0]), "%s", argv[3]);
        snprintf(links[1], sizeof(links[1]), "%s.1", argv[3]);
        must(symlink(argv[4], links[1]), links[1]);
    } else {
        changes_descriptor = 1;
        kinds = 3;
        address = addresses[1];
        if (!strcmp(how, "packets") || !strcmp(how, "stream")) {
            must(socketpair(AF_UNIX, how[0] == 'p' ? SOCK_SEQPACKET : SOCK_STREAM, 0, pair), "socketpair");
            sockets[0] = pair[0];
            receivers[1] = pair[1];
            changes_presence = how[0] == 's';
            if (how[0] == 's')
                kinds = 2;
        } else if (!strcmp(how, "internet")) {
            struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
            receivers[1] = socket(AF_INET, SOCK_DGRAM, 0);
            must(bind(receivers[1], (struct sockaddr *)&local, sizeof(local)), "bind");
            must(getsockname(receivers[1], (struct sockaddr *)&local, &size), "getsockname");
            sockets[0] = socket(AF_INET, SOCK_DGRAM, 0);
            memset(&addresses[0], 0, sizeof(addresses[0]));
            memcpy(&addresses[0], &local, sizeof(local));
            changes_address = 1;
        } else if (!strcmp(how, "netlink")) {
            struct sockaddr_nl to = {.nl_family = AF_NETLINK};
            sockets[0] = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
            memset(&addresses[0], 0, sizeof(addresses[0]));
            memcpy(&addresses[0], &to, sizeof(to));
            changes_address = 1;
        } else {
            return 2;
        }
    }
    message.msg_namelen = sizes[0];
    given = dup(sockets[0]);
    messages[0].msg_hdr = message;
    rounds = atol(argv[2]);
    must(pthread_create(&thread, NULL, swap, NULL), "pthread_create");
    for (long round = 0; round < rounds || (one_sided(kinds) && round < 20 * rounds); ++round) {
        struct call *call = &calls[round % kinds];
        if (call->make() == 8) {
            ++call->succeeded;
        } else if (errno == EACCES) {
            ++call->refused;
        } else {
            ++call->other;
            call->error = errno;
        }
        for (int side = 0; side < 2; ++side)
            while (receivers[side] >= 0 && recv(receivers[side], rest, sizeof(rest), MSG_DONTWAIT) > 0)
                ;
    }
    done = 1;
    pthread_join(thread, NULL);
    for (struct call *call = calls; call < calls + kinds; ++call)
        printf("%s %ld %ld %ld %d\n", call->name, call->succeeded, call->refused, call->other, call->error);
    return 0;
}
