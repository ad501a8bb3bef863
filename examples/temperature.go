package main

import "fmt"

func fahrenheit(celsius float64) float64 {
	return celsius*9/5 + 32
}

func celsius(fahrenheit float64) float64 {
	// Convert degrees Fahrenheit to degrees Celsius.
}

func main() {
	// Print 100 degrees Celsius in Fahrenheit.

	// Print 100 degrees Fahrenheit in Celsius.
}
