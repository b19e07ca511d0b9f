/* Connects and ends at once, by the bare system call, before anybody could look at it in peace.
 *
 * Usage: exit_calls ADDRESS PORT; the exit status is the error number of connect.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd;

    if (argc != 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        return 255;
    address.sin_port = htons(atoi(argv[2]));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    syscall(SYS_exit_group, connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0);
    return 255;
}
