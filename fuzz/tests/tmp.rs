#[test] fn t() {
  println!("{:?}", simple_proxy_fuzz::hyper_peer::serve(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n".to_vec()));
  println!("{:?}", simple_proxy_fuzz::hyper_peer::ask(simple_proxy_fuzz::hyper_peer::Asked{is_1_1:true,is_head:false,upgrade:false}, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello".to_vec(), true));
  println!("{:?}", simple_proxy_fuzz::hyper_peer::ask(simple_proxy_fuzz::hyper_peer::Asked{is_1_1:true,is_head:false,upgrade:false}, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(), false));
}
