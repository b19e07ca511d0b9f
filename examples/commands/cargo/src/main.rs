fn main() {
    println!("the shop");
}
