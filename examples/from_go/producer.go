// Calls a task of a cloudq app over SQS, and waits for its result in DynamoDB:
// go run . QUEUE_URL TABLE TASK 'JSON_ARGUMENTS'
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

func text(item map[string]types.AttributeValue, name string) string {
	value, _ := item[name].(*types.AttributeValueMemberS)
	return cmp.Or(value, &types.AttributeValueMemberS{}).Value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	queue, table, task, args := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	id := rand.Text() // the required keys of docs/reference/message-v1.schema.json, and args
	body, _ := json.Marshal(map[string]any{"v": 1, "id": id, "task": task, "args": json.RawMessage(args)})
	call := &sqs.SendMessageInput{QueueUrl: &queue, MessageBody: aws.String(string(body))}
	if _, err = sqs.NewFromConfig(cfg).SendMessage(ctx, call); err != nil {
		log.Fatal(err)
	}
	store := dynamodb.NewFromConfig(cfg)
	key := map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: "task#" + id}, "sk": &types.AttributeValueMemberS{Value: "-"}}
	for ; ; time.Sleep(250 * time.Millisecond) {
		reply, err := store.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: key})
		if err != nil {
			log.Fatal(err)
		}
		switch state := text(reply.Item, "state"); state {
		case "SUCCESS":
			fmt.Println(cmp.Or(text(reply.Item, "value"), "null"))
			return
		case "FAILURE", "REVOKED", "REJECTED":
			log.Fatalf("%s: %s: %s", state, text(reply.Item, "error_type"), text(reply.Item, "error"))
		}
	}
}
