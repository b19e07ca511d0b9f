/* Sends one datagram to each of several addresses by a single sendmmsg(2); prints how many were sent and errno.
 *
 * Usage: sendmmsg ADDRESS:PORT...
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MOST 16

int main(int argc, char **argv)
{
    struct sockaddr_in addresses[MOST];
    struct iovec vectors[MOST];
    struct mmsghdr messages[MOST];
    int count = argc - 1, fd, sent;

    if (count < 1 || count > MOST)
        return 2;
    memset(addresses, 0, sizeof(addresses));
    memset(messages, 0, sizeof(messages));
    for (int i = 0; i < count; i++) {
        char *port = strchr(argv[i + 1], ':');

        if (!port)
            return 2;
        *port = 0;
        addresses[i].sin_family = AF_INET;
        addresses[i].sin_port = htons(atoi(port + 1));
        if (inet_pton(AF_INET, argv[i + 1], &addresses[i].sin_addr) != 1)
            return 2;
        vectors[i].iov_base = "datagram";
        vectors[i].iov_len = 8;
        messages[i].msg_hdr.msg_name = &addresses[i];
        messages[i].msg_hdr.msg_namelen = sizeof(addresses[i]);
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        return 2;
    errno = 0;
    sent = sendmmsg(fd, messages, count, 0);
    printf("sent %d errno %d lengths", sent, errno);
    for (int i = 0; i < count; i++)
        printf(" %u", messages[i].msg_len);
    printf("\n");
    return 0;
}
