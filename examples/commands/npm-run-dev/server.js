const port = Number(process.env.PORT || 8080)
require('node:http')
  .createServer((request, response) => response.end('the shop\n'))
  .listen(port, () => console.log(`listening on ${port}`))
